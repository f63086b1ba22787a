"""A run at Weights & Biases: metrics, tables of questions, and artifacts with their lineage. Offline without a key."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rzero.durable import write_atomically
from rzero.escaping import slug, wandb_cell
from rzero.runs.bank import JsonlBank
from rzero.runs.directory import RunDirectory
from rzero.tracking.jsonl import read_metrics
from rzero.tracking.wandb_files import last_step, require_writable
from rzero.types import Artifact, Json, LabelledQuestion

if TYPE_CHECKING:  # slow to import, and only this tracker needs it
    import wandb

KEY = "WANDB_API_KEY"
BY_ITERATION = ("evaluation/*", "curriculum/*", "audit/*", "questions")
"""Measured once an iteration, which is their x axis; the rest of the metrics is drawn over training steps."""

FLUSH_S = 1.0
"""Seconds until what W&B was told stands in its file; its own 15 lose more when a run is killed."""

COLUMNS = (
    "iteration",
    "index",
    "outcome",
    "question",
    "label",
    "agreement",
    "votes",
    "answers",
    "challenger_answer",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The W&B run that a directory belongs to (`wandb_run.json`), settled when the run begins.

    mode: online, offline or disabled; kept, so that the parts of a resumed run reach W&B in order. entity: the account
    of an online run, else empty.
    """

    id: str
    project: str
    entity: str
    mode: str
    name: str | None
    group: str | None

    @classmethod
    def read(cls, directory: Path) -> Identity | None:
        """Returns None when the run was never tracked. Raises ValueError when the file is damaged."""
        path = directory / "wandb_run.json"
        if not path.exists():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            found.pop("step", None)  # earlier versions trusted it
            return cls(**found)
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} names no W&B run ({error}); remove it to begin a new one there") from error

    def write(self, directory: Path) -> None:
        write_atomically(directory / "wandb_run.json", json.dumps(asdict(self)).encode())


class WandbTracker:
    """Mirrors a run to one W&B run, which a resumed run continues. Numbers that are not finite are gaps.

    Every step stands there once. W&B is asked which step it has as its last (offline that is what its files hold): up
    to there nothing is sent again, and what it lost of the steps in `metrics.jsonl` it is sent first.

    mode: online, offline, disabled, or auto: online with a key in the environment, else offline (`wandb sync` uploads
    it later). group: joins the runs of a sweep. artifacts: the kinds of artifact that are uploaded; the others are left
    on disk. config: shown beside the run; it must hold no secret.

    Raises ValueError when a run that began online has no key, OSError when the files cannot be written or W&B refuses.
    """

    def __init__(
        self,
        *,
        project: str,
        mode: str,
        directory: str,
        name: str | None = None,
        group: str | None = None,
        artifacts: Collection[str] = (),
        config: Json | None = None,
    ) -> None:
        import wandb

        self._directory, self._kinds = Path(directory), frozenset(artifacts)
        known = Identity.read(self._directory)
        mode = _settle(mode, known, directory)
        if mode != "disabled":
            require_writable(directory)
        there = last_step(self._directory, run_id=known.id) if known and mode == "offline" else 0
        try:
            self._run = wandb.init(
                project=known.project if known else project,
                entity=known.entity or None if known else None,
                id=known.id if known else None,
                # `wandb sync` begins a run anew at an offline file that is not marked as a resume
                resume="allow" if known or mode == "online" else None,
                mode=mode,  # type: ignore[arg-type]
                dir=directory,
                name=known.name if known else name,
                group=known.group if known else group,
                config=dict(config or {}),
                settings=wandb.Settings(x_transaction_log_flush_interval=FLUSH_S),
            )
        except wandb.Error as error:
            raise OSError(f"W&B does not begin a run: {' '.join(str(error).split())}") from error
        self._identity = known or Identity(
            id=self._run.id,
            project=self._run.project,
            entity=self._run.entity if mode == "online" else "",
            mode=mode,
            name=name,
            group=group,
        )
        self._identity.write(self._directory)
        self._repeated = False
        self._sent = self._run.starting_step - 1 if mode == "online" else there
        self._logged: dict[str, wandb.Artifact] = {}
        self._run.define_metric("iteration")
        for pattern in BY_ITERATION:
            self._run.define_metric(pattern, step_metric="iteration")
        if known:
            self._send_lost()

    def _send_lost(self) -> None:
        """Sends what is committed and did not come to W&B before an earlier attempt was killed."""
        there = RunDirectory(self._directory)
        for row in read_metrics(there.metrics) if there.metrics.is_file() else ():
            metrics = {name: math.nan if value is None else value for name, value in row.items()}
            step, _ = int(metrics.pop("step")), metrics.pop("time/unix_s")
            self.log(metrics, step=step)
            iteration = round(metrics.get("iteration", 0))
            if "curriculum/candidates" in row and there.questions(iteration).is_file():
                self.questions(JsonlBank(there).get(iteration), step=step)

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        self._repeated = step <= self._sent
        if not self._repeated:
            self._run.log({name: value for name, value in metrics.items() if math.isfinite(value)}, step=step)
            self._sent = step

    def questions(self, labelled: Sequence[LabelledQuestion], *, step: int) -> None:
        if not self._repeated:
            import wandb

            table = wandb.Table(columns=list(COLUMNS), data=[table_row(question) for question in labelled])
            self._run.log({"questions": table}, step=step)

    def artifact(self, made: Artifact) -> None:
        """Uploads what a stage made. The same content again is no new version at W&B."""
        if made.kind not in self._kinds:
            return
        import wandb

        # W&B reads the files where they lie: a copy of each checkpoint in its staging folder would fill a disk
        upload = wandb.Artifact(
            self._name(made.kind),
            type="questions" if made.kind == "questions" else "policy",
            metadata={"iteration": made.iteration, "role": made.kind, "made_of": list(made.made_of)},
        )
        if made.path.is_dir():
            upload.add_dir(str(made.path), policy="immutable", skip_cache=True)
        else:
            upload.add_file(str(made.path), policy="immutable", skip_cache=True)
        self._declare_inputs(made)
        alias = f"iteration-{made.iteration}"
        self._logged[made.name] = self._run.log_artifact(upload, aliases=[alias])

    def _declare_inputs(self, made: Artifact) -> None:
        """The arrows of W&B's lineage graph. Offline it draws none; `made_of` in the metadata says the same."""
        if self._identity.mode != "online":
            return
        for name in made.made_of:
            kind, _, iteration = name.partition("_")
            if name in self._logged:
                self._run.use_artifact(self._logged[name].wait())
            elif kind in self._kinds:  # made by an earlier attempt
                self._run.use_artifact(f"{self._name(kind)}:iteration-{iteration}")

    def _name(self, kind: str) -> str:
        return slug(f"{kind}-{self._identity.id}")

    def close(self) -> None:
        self._run.finish()


def _settle(mode: str, known: Identity | None, directory: str) -> str:
    if mode == "auto":
        mode = known.mode if known else "online" if os.environ.get(KEY) else "offline"
        if mode == "online" and not os.environ.get(KEY):
            raise ValueError(f"the run in {directory} began online at W&B; set {KEY} to go on with it")
    return mode


def table_row(question: LabelledQuestion) -> list[str | float | None]:
    """Returns a question with its votes as W&B shows it, in the order of `COLUMNS`; all model text is escaped."""
    vote = question.vote
    counts = sorted(vote.counts, key=lambda cluster: -cluster[1]) if vote else []
    return [
        question.iteration,
        question.index,
        wandb_cell(question.drop_reason or "kept"),
        wandb_cell(question.question),
        wandb_cell(vote.label) if vote and vote.label is not None else None,
        vote.agreement if vote else None,
        wandb_cell(", ".join(f"{answer} ×{count}" for answer, count in counts)),
        wandb_cell(" | ".join("(none)" if answer is None else answer for answer in vote.answers)) if vote else "",
        wandb_cell(question.challenger_answer) if question.challenger_answer is not None else None,
    ]
