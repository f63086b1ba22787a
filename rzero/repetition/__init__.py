"""How much of a batch each question repeats: as published (`paper`), and in any language (`any_language`)."""

from rzero.repetition.any_language import AnyLanguageRepetition
from rzero.repetition.bleu import bleu_distance, nearest_similarity
from rzero.repetition.paper import cluster_labels, cluster_shares

__all__ = ["AnyLanguageRepetition", "bleu_distance", "cluster_labels", "cluster_shares", "nearest_similarity"]
