"""The paper's analyses of a run: how hard each iteration's questions are for each iteration's Solver, how diverse they
are, and how pass@k compares with maj@k.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from evaluation.contamination import words
from evaluation.metrics import BenchmarkScore, Scores, pass_at
from rzero.interfaces import Progress, RolloutEngine
from rzero.prompts import Prompts
from rzero.repetition import cluster_labels
from rzero.types import Sampling, Vote

VoteMany = Callable[[Sequence[Sequence[str]]], list[Vote]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difficulty:
    """One cell of the matrix: one iteration's questions put to one Solver. All shares in [0, 1].

    agreement: mean share of the most frequent answer (the paper's p-hat). answered: questions with an answer at all.
    accuracy: share of samples that equal the reference answer, None without references.
    """

    agreement: float
    answered: float
    accuracy: float | None


def difficulty(
    questions: Sequence[str],
    engine: RolloutEngine,
    *,
    prompts: Prompts,
    vote_many: VoteMany,
    sampling: Sampling,
    references: Sequence[str | None] | None = None,
    accepts: Callable[[str, str], bool] | None = None,
    progress: Progress | None = None,
) -> Difficulty:
    """Returns how `questions` go with the Solver behind `engine`, asked `sampling.n` times each.

    references: the true answers as far as they are known (an oracle's, in the micro world), compared by `accepts`.
    progress: counts answers while they are drawn.
    """
    if not questions:
        raise ValueError("difficulty needs at least one question")
    groups = engine.generate([prompts.solver(question) for question in questions], sampling, progress=progress)
    votes = vote_many([[completion.text for completion in group.completions] for group in groups])
    rates = []
    if references is not None and accepts is not None:
        for vote, reference in zip(votes, references, strict=True):
            if reference is not None:
                same = {a: accepts(a, reference) for a in set(vote.answers) if a is not None}
                rates.append(fmean(answer is not None and same[answer] for answer in vote.answers))
    return Difficulty(
        agreement=fmean(vote.agreement for vote in votes),
        answered=fmean(vote.label is not None for vote in votes),
        accuracy=fmean(rates) if rates else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Diversity:
    """Diversity of a set of questions. `distinct` and `clusters` are shares of them in (0, 1]; entropies in bits.

    clusters: BLEU clusters, the paper's own notion of repetition. cluster_entropy: of the cluster sizes, at most
    log2(questions). word_entropy: of single words. distinct_bigrams: different among all bigrams of words.
    """

    questions: int
    distinct: float
    clusters: float
    cluster_entropy: float
    word_entropy: float
    distinct_bigrams: float


def diversity(questions: Sequence[str], *, threshold: float = 0.5) -> Diversity:
    """Returns the diversity of `questions`. `threshold`: BLEU distance below which questions are one cluster."""
    if not questions:
        raise ValueError("diversity needs at least one question")
    sizes = np.unique(cluster_labels(questions, threshold=threshold), return_counts=True)[1].tolist()
    texts = [words(question) for question in questions]
    bigrams = [pair for text in texts for pair in itertools.pairwise(text)]
    return Diversity(
        questions=len(questions),
        distinct=len(set(questions)) / len(questions),
        clusters=len(sizes) / len(questions),
        cluster_entropy=entropy(sizes),
        word_entropy=entropy(list(Counter(word for text in texts for word in text).values())),
        distinct_bigrams=len(set(bigrams)) / len(bigrams) if bigrams else 0.0,
    )


def entropy(counts: Sequence[int]) -> float:
    """Shannon entropy of a histogram, in bits."""
    total = sum(counts)
    return -sum(count / total * math.log2(count / total) for count in counts if count) if total else 0.0


def pass_curve(scores: Scores) -> dict[str, dict[int, float]]:
    """pass@j in percent for j = 1, 2, 4, ... k, of every benchmark that was sampled k times."""
    draws = [2**power for power in range(scores.k.bit_length()) if 2**power <= scores.k]
    return {
        b.name: {j: pass_at(b, k=scores.k, draws=j) for j in draws} for b in scores.benchmarks if _sampled(b, scores)
    }


def _sampled(benchmark: BenchmarkScore, scores: Scores) -> bool:
    """Returns whether a benchmark's shares are over k samples, and not over its one greedy answer."""
    return scores.k > 1 and any(o.sampled not in (0.0, 1.0) or o.sampled != o.greedy for o in benchmark.outcomes)
