"""A finished run in at most 20 KB: scores item by item, curves, the manifest, and examples of its questions.

A folder of the store, <root>/<arm>/seed<k>/, holds config.yaml.xz, run.json, result.json.xz and, where a larger model
was asked, second_opinion.json. Paths of this machine are not kept: the configuration is the one that the arm composes.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from evaluation.metrics import Scores
from experiments.recipe import agrees
from experiments.reporting.data import Iteration, Row, read_run
from experiments.reporting.iterations import chosen, cut
from experiments.reporting.posed import Posed
from experiments.runs import composed, digest, peak_rss_gib, to_six_digits, wall_minutes
from rzero.durable import write_atomically
from rzero.roles import Role
from rzero.runs.bank import to_row
from rzero.runs.directory import RunDirectory
from rzero.types import Json, LabelledQuestion

RESULT = "result.json.xz"
CONFIG = "config.yaml.xz"
MOST_BYTES = 20 * 1024
OPINION_BYTES = 1024
"""What a second opinion may still take."""
LONGEST_QUESTION, LONGEST_ANSWER = 400, 40
"""Characters of an example that are kept."""

CURVES = (
    "reward",
    "kl",
    "entropy",
    "grad_norm",
    "frac_reward_zero_std",
    "completions/mean_length",
    "completions/clipped_ratio",
    "sampling/sampling_logp_difference/mean",
    "sampling/importance_sampling_ratio/mean",
    "timing_s/rollout",
    "timing_s/reward",
    "timing_s/update",
)
"""Metrics of a training step that are kept, where they were logged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A finished run. scores, truncated, rounds: of the base (0) and each iteration; truncated holds shares in [0, 1].

    rounds: metrics (`experiments.runs.digest`) and, of trained iterations, the shares of `Posed`. curves: by iteration
    and role one list a metric, a value a step. questions: by iteration some with their votes. base: sha256 of the base
    model's weights, empty where they are on the hub. transfer: scores on what nobody trains for, of the base and the
    last Solver, each with its truncated shares; empty where it was not asked. opinion: of `experiments.second_opinion`.
    """

    seed: int
    config: DictConfig
    manifest: Json
    scores: tuple[Scores, ...]
    truncated: Sequence[Mapping[str, Mapping[str, float]]]
    rounds: Sequence[Mapping[str, float]]
    curves: Mapping[str, Mapping[str, Mapping[str, Sequence[float | None]]]]
    questions: Mapping[str, Sequence[Json]]
    base: str
    transfer: Sequence[Json]
    opinion: Json

    @property
    def iterations(self) -> Sequence[Mapping[str, float]]:
        """The rounds, by the name that `experiments.runs.KeptRun` has for them."""
        return self.rounds

    @property
    def attempts(self) -> list[Json]:
        return list(self.manifest["attempts"])

    @property
    def wall_minutes(self) -> float:
        return wall_minutes(self.manifest)

    @property
    def peak_rss_gib(self) -> float:
        return peak_rss_gib(self.manifest)

    @property
    def label_accuracy(self) -> list[float]:
        """Share of the pseudo-labels that are the larger model's answer, by iteration; empty where it was not asked."""
        return [self.opinion["iterations"][number]["accuracy"] for number in sorted(self.opinion.get("iterations", {}))]


def lacks(folder: Path, wanted: DictConfig) -> str:
    """Return why a folder does not hold a kept run of this configuration; empty when it does."""
    if not (folder / RESULT).exists():
        return f"there is no {RESULT} in {folder}"
    if not agrees(_config(folder), wanted, default=composed(())):
        return f"{folder / CONFIG} is of another recipe"
    return ""


def packed(text: str) -> bytes:
    """Return text as small as a file of the store holds it."""
    return lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME)


def unpacked(path: Path) -> str:
    """Return the text of such a file."""
    return lzma.decompress(path.read_bytes()).decode()


def _config(folder: Path) -> DictConfig:
    """The configuration of a kept run."""
    config = OmegaConf.create(unpacked(folder / CONFIG))
    assert isinstance(config, DictConfig)
    return config


def keep(directory: Path, folder: Path, *, config: DictConfig, transfer: Sequence[Json] = ()) -> None:
    """Write the small files of a finished run; config: that of its arm, without places on this machine.

    Raises ValueError when they take more than 20 KB.
    """
    there, kept = RunDirectory(directory), RunDirectory(folder)
    found = {**record(directory), "transfer": list(transfer)}
    files = {
        folder / CONFIG: packed(OmegaConf.to_yaml(config)),
        kept.manifest: there.manifest.read_bytes(),
        folder / RESULT: packed(json.dumps(found, sort_keys=True)),
    }
    if (size := sum(map(len, files.values())) + OPINION_BYTES) > MOST_BYTES:
        raise ValueError(f"{folder} would take {size} bytes; a kept run takes at most {MOST_BYTES}")
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in files.items():  # the result last: with it the run counts as kept
        write_atomically(path, content)
    keep_opinion(directory, folder)


def keep_opinion(directory: Path, folder: Path) -> None:
    """Copy the second opinion on a run that is kept, when there is one; question by question it stays where it was."""
    path = RunDirectory(directory).second_opinion
    if path.exists() and (folder / RESULT).exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        small = {
            "settings": {key: value for key, value in found["settings"].items() if key != "prompts"},
            "iterations": {
                number: {key: value for key, value in opinion.items() if key != "labels"}
                for number, opinion in found["iterations"].items()
            },
        }
        write_atomically(RunDirectory(folder).second_opinion, (json.dumps(small) + "\n").encode())


def record(directory: Path) -> Json:
    """Return everything worth keeping of a run as plain data."""
    run, found = read_run(directory), digest(directory)
    pairs = zip(found["rounds"], run.iterations, strict=True)
    return {
        "scores": [without_table(scores) for scores in found["scores"]],
        "truncated": [iteration.truncated for iteration in run.iterations],
        "rounds": [to_six_digits({**metrics, **_posed(iteration)}) for metrics, iteration in pairs],
        "curves": {str(iteration.number): _curves(iteration) for iteration in run.trained},
        "questions": {
            str(iteration.number): [_example(q) for q in chosen(iteration.questions)] for iteration in run.trained
        },
        "base": weights_sha256(str(run.config.policy.path_or_id)),
    }


def load(folder: Path, seed: int) -> Kept:
    """Return a kept run. Raises FileNotFoundError when there is none."""
    data = json.loads(unpacked(folder / RESULT))
    kept = RunDirectory(folder)
    config = _config(folder)
    has_opinion = kept.second_opinion.exists()
    opinion = json.loads(kept.second_opinion.read_text(encoding="utf-8")) if has_opinion else {}
    manifest = json.loads(kept.manifest.read_text(encoding="utf-8"))
    scores = tuple(map(Scores.from_json, data.pop("scores")))
    return Kept(seed=seed, config=config, manifest=manifest, scores=scores, opinion=opinion, **data)


def weights_sha256(policy: str) -> str:
    """Return the sha256 of a directory's weight files one after the other; empty for a hub id."""
    files = sorted(Path(policy).glob("*.safetensors")) if Path(policy).is_dir() else []
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest() if files else ""


def without_table(scores: Json) -> Json:
    """Return scores item by item; what follows from that is left out."""
    return {key: value for key, value in scores.items() if key not in ("table", "overall", "truncated")}


def _posed(iteration: Iteration) -> dict[str, float]:
    found = Posed.of(iteration.questions)
    return {f"posed/{name}": share for name, share in asdict(found).items()} if found else {}


def _curves(iteration: Iteration) -> dict[Role, dict[str, list[float | None]]]:
    return {"challenger": _of_role("challenger", iteration.challenger), "solver": _of_role("solver", iteration.solver)}


def _of_role(role: Role, rows: Sequence[Row]) -> dict[str, list[float | None]]:
    names = [name for name in CURVES if any(f"{role}/{name}" in row for row in rows)]
    return {name: [_number(row.get(f"{role}/{name}")) for row in rows] for name in names}


def _number(value: float | None) -> float | None:
    """To four digits: a curve need not hold the noise behind them."""
    return float(f"{value:.4g}") if value is not None and math.isfinite(value) else None


def _example(question: LabelledQuestion) -> Json:
    """A row of the bank, its texts cut where they are long."""
    row = to_row(question)
    return {
        "question": cut(row["question"], LONGEST_QUESTION),
        "challenger_answer": cut(row["challenger_answer"] or "", LONGEST_ANSWER),
        "label": cut(row["label"] or "", LONGEST_ANSWER),
        "votes": [(cut(entry["answer"], LONGEST_ANSWER), entry["count"]) for entry in row["counts"][:8]],
        "of": row["divisor"],
        "outcome": row["drop_reason"] or "kept",
    }
