"""The repetition penalty against the obvious way: one nltk BLEU per pair, then scikit-learn's clustering.

Both are measured in CPU seconds in this process. The obvious way takes minutes for 2,048 questions, so it runs on the
first `SMALL` of them and its cost per pair is extrapolated to all pairs; the shares of those questions must be equal.
Memory is the peak of a fresh process that does nothing but the penalty.
"""

from __future__ import annotations

import multiprocessing
import random
import resource
import time
from collections import Counter
from collections.abc import Callable, Sequence

from rzero.repetition import cluster_shares
from rzero.types import Json

QUESTIONS, SMALL = 2048, 128
WORDS = (40, 60)  # per question
TEMPLATES, VOCABULARY = 600, 3000  # templates: how many different questions lie under the variations
REPEATS = 3


def run() -> Json:
    """Keys: repetition_speedup, seconds of both ways, peak memory in MB, whether the shares agree, and how measured."""
    questions = sample_questions(QUESTIONS, seed=0)
    ours = min(_cpu_seconds(lambda: cluster_shares(questions))[0] for _ in range(REPEATS))
    naive_small, naive_shares = _cpu_seconds(lambda: naive_shares_of(questions[:SMALL]))
    per_pair = naive_small / (SMALL * (SMALL - 1) / 2)
    naive = per_pair * QUESTIONS * (QUESTIONS - 1) / 2
    return {
        "repetition_speedup": naive / ours,
        "repetition_seconds": ours,
        "repetition_naive_seconds_extrapolated": naive,
        "repetition_naive_us_per_pair": per_pair * 1e6,
        "repetition_peak_mb": peak_mb(),
        "repetition_same_shares": cluster_shares(questions[:SMALL]) == naive_shares,
        "repetition_how": (
            f"{QUESTIONS} questions of {WORDS[0]} to {WORDS[1]} words, CPU seconds, best of {REPEATS}; nltk and "
            f"scikit-learn on the first {SMALL}, extrapolated by pairs; peak resident memory of a process of its own"
        ),
    }


def sample_questions(number: int, *, seed: int) -> list[str]:
    """Questions as a Challenger under training poses them: variations of templates, from loose to nearly equal."""
    draw = random.Random(seed)
    # word frequencies fall like 1 / rank, as in any language: many pairs share the frequent words
    words = [f"w{rank}" for rank in range(1, VOCABULARY + 1)]
    weights = [1 / rank for rank in range(1, VOCABULARY + 1)]
    templates = [draw.choices(words, weights, k=draw.randint(*WORDS)) for _ in range(TEMPLATES)]
    questions = []
    for _ in range(number):
        text = list(draw.choice(templates))
        for _ in range(draw.randrange(len(text) // 2)):
            text[draw.randrange(len(text))] = draw.choices(words, weights)[0]
        questions.append(" ".join(text))
    return questions


def naive_shares_of(questions: Sequence[str], *, threshold: float = 0.5) -> list[float]:
    """The penalty written down directly (a development dependency: nltk)."""
    import numpy as np
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
    from sklearn.cluster import AgglomerativeClustering

    smoothing = SmoothingFunction().method1
    distances = np.zeros((len(questions), len(questions)))
    for i in range(len(questions)):
        for j in range(i + 1, len(questions)):
            bleu = sentence_bleu([questions[j].split()], questions[i].split(), smoothing_function=smoothing)
            distances[i, j] = distances[j, i] = 1 - bleu
    clustering = AgglomerativeClustering(
        n_clusters=None, distance_threshold=threshold, metric="precomputed", linkage="average"
    )
    labels = clustering.fit_predict(distances).tolist()
    sizes = Counter(labels)
    return [sizes[label] / len(questions) for label in labels]


def peak_mb() -> float:
    """Peak resident memory in MB of a fresh process that imports the penalty and applies it once."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak_of_this_process)


def _peak_of_this_process() -> float:
    cluster_shares(sample_questions(QUESTIONS, seed=0))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _cpu_seconds(function: Callable[[], list[float]]) -> tuple[float, list[float]]:
    start = time.process_time()
    result = function()
    return time.process_time() - start, result
