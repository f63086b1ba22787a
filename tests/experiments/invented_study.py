"""A study whose runs are made up: scores, curves and questions at the sizes of the real ones."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from evaluation.metrics import BenchmarkScore, Outcome, Scores
from experiments.reproduce import compact
from experiments.reproduce.half_billion import study
from experiments.reproduce.seeded import SeededStudy
from rzero.runs.bank import JsonlBank
from rzero.runs.directory import RunDirectory
from rzero.types import Json
from tests.experiments.runs import RunWriter


def outcomes(name: str, count: int, right: float, seed: int) -> BenchmarkScore:
    rng = random.Random(f"{name}/{seed}")
    luck = [rng.random() for _ in range(count)]
    items = (
        Outcome(
            id=f"{name}/test/{number}",
            level=0,
            greedy=value < right,
            greedy_boxed=value < 0.9,
            sampled=round(4 * min(1.0, max(0.0, right + 0.3 - value))) / 4,
            sampled_boxed=0.75,
            majority=value < right,
            any_right=value < right + 0.3,
        )
        for number, value in enumerate(luck)
    )
    return BenchmarkScore(name=name, group="math", outcomes=tuple(items))


def scores(right: float, *, seed: int = 0) -> Scores:
    """GSM8K and MATH-500 at the sizes of the protocol; the same luck for all models of a seed."""
    return Scores(k=4, benchmarks=(outcomes("gsm8k", 200, right, seed), outcomes("math500", 100, right / 2, seed)))


def long_question(rng: random.Random) -> str:
    """As long and as hard to compress as a model's."""
    words = [f"{rng.choice('abcdefghijklmnop')}{rng.randrange(10**6)}" for _ in range(60)]
    return " ".join(words)


def written(directory: Path, config: Any, *, base: float, end: float) -> None:
    """A finished run of two iterations at the size of the real one."""
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    directory.parent.mkdir(parents=True, exist_ok=True)
    writer = RunWriter(directory, **{str(key): value for key, value in plain.items()})
    there, rng = RunDirectory(directory), random.Random(0)
    for number, right in enumerate((base, (base + end) / 2, end)):
        if number:
            for role, steps in (("challenger", 10), ("solver", 30)):
                for _ in range(steps):
                    values = {name: rng.random() for name in compact.CURVES}
                    writer.log(number, {f"{role}/{name}": value for name, value in values.items()})
            posed = writer.pose(number, audited=False)
            longer = [replace(q, question=long_question(rng)) if q.question else q for q in posed]
            JsonlBank(there).put(number, longer)
        path = there.scores(number)
        path.parent.mkdir(exist_ok=True)
        share = {"greedy": 0.01 * number, "sampled": 0.02}
        truncated = {"gsm8k": share, "math500": share}
        path.write_text(json.dumps({**scores(right).to_json(), "truncated": truncated}), encoding="utf-8")
        writer.log(number, {"evaluation/overall": 1.0})
    writer.manifest(finished=True)


def asked(base: float, end: float) -> list[Json]:
    return [{**scores(right).to_json(), "truncated": {}} for right in (base, end)]


def invented(root: Path) -> SeededStudy:
    """The study of half a billion parameters with runs made up under `root`, all of them kept: R-Zero gains, the
    controls less."""
    made = replace(study.STUDY, root=root / "store", work=root / "work")
    gains = {"rzero": 0.1, "untrained_challenger": 0.04, "random_reward": -0.02}
    for name, seed in made.runs():
        directory = made.store().directory(made.arms[name], seed)
        config, better = made.config(name, seed), gains[name] + 0.01 * seed
        written(directory, config, base=0.25, end=0.25 + better)
        compact.keep(directory, made.folder(name, seed), config=config, transfer=asked(0.3, 0.3 + better / 2))
    return made
