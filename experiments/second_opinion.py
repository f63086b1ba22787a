"""Ask a larger model the questions that a run kept, and compare its answers with the pseudo-labels. Measuring only.

    python -m experiments.second_opinion RUN                          # of conf/second_opinion.yaml; make second-opinion
    python -m experiments.second_opinion outputs/micro prompts=micro  # every run in a folder, asked in another way
    python -m experiments.second_opinion RUN policy.path_or_id=DIR    # another model; a directory or a hub id

Some kept questions of each iteration, the same whenever it is asked, are answered several times by the larger model; a
pseudo-label counts as right where it is the most frequent of these answers. The second opinion is written to
RUN/second_opinion.json when a run has ended, and no run reads it. Who has one of the same settings is not asked again.

Exit codes: 0 written; 1 stopped by the user (the same command goes on); 2 a wrong value, path or place.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from experiments.command_line import DONE, add_overrides, check, command_parser, exit_code, expand_policy, say
from experiments.compose import compose
from experiments.paths import place
from experiments.reporting.data import require_run
from experiments.rundir import runs_in
from experiments.terminal import progress, quiet_libraries
from rzero.durable import write_atomically
from rzero.interfaces import Grader, RolloutEngine
from rzero.runs.bank import JsonlBank
from rzero.runs.directory import RunDirectory
from rzero.seeding import derive
from rzero.types import Json, LabelledQuestion, Sampling
from rzero.voting import PaperVote

if TYPE_CHECKING:
    from rzero.prompts import Prompts

SMALLEST = {"questions": 1, "votes": 1, "seed": 0, "threads": 1}
SETTINGS = ("policy", "prompts", "questions", "votes", "sampling", "seed")
"""What of the configuration decides an opinion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """What the larger model says to the kept questions of an iteration.

    kept, asked: how many there are, and how many of them were put to it. accuracy: share in [0, 1] of the asked whose
    pseudo-label is its most frequent answer. sure: questions on which more than half of its answers are one.
    accuracy_sure: the share among those; None without any. labels: by question its index, the pseudo-label and the
    most frequent answer with its votes (None: none had a box), and whether the two are equal.
    """

    kept: int
    asked: int
    accuracy: float
    sure: int
    accuracy_sure: float | None
    labels: Sequence[tuple[int, str, str | None, int, bool]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How an engine is asked: how many questions of an iteration, and how the answers to each are drawn."""

    prompts: Prompts
    grader: Grader
    questions: int
    sampling: Sampling

    def chosen(self, labelled: Sequence[LabelledQuestion], *, iteration: int) -> list[LabelledQuestion]:
        """Return the kept questions that are asked, in order; those of earlier iterations (replay) are not."""
        kept = [q for q in labelled if q.kept and q.iteration == iteration and q.vote and q.vote.label]
        draw = random.Random(derive(self.sampling.seed, iteration, "second opinion"))
        return sorted(draw.sample(kept, min(self.questions, len(kept))), key=lambda question: question.index)

    def opinion(self, engine: RolloutEngine, labelled: Sequence[LabelledQuestion], *, iteration: int) -> Opinion:
        """Return what the engine's policy says to an iteration's kept questions. Raises ValueError without any."""
        asked = self.chosen(labelled, iteration=iteration)
        if not asked:
            raise ValueError(f"iteration {iteration} kept no question that could be asked")
        groups = engine.generate([self.prompts.solver(question.question) for question in asked], self.sampling)
        votes = PaperVote(self.grader).vote_many([[c.text for c in group.completions] for group in groups])
        pairs = [(question.vote.label or "", vote.label) for question, vote in zip(asked, votes, strict=True)]  # type: ignore[union-attr]
        same = iter(self.grader.accepts_many([(mine, other) for mine, other in pairs if other]))
        equal = [other is not None and next(same) for _, other in pairs]
        sure = [is_equal for vote, is_equal in zip(votes, equal, strict=True) if 2 * vote.count > vote.divisor]
        return Opinion(
            kept=sum(question.kept and question.iteration == iteration for question in labelled),
            asked=len(asked),
            accuracy=sum(equal) / len(asked),
            sure=len(sure),
            accuracy_sure=sum(sure) / len(sure) if sure else None,
            labels=[
                (question.index, label, vote.label, vote.count, is_equal)
                for question, (label, _), vote, is_equal in zip(asked, pairs, votes, equal, strict=True)
            ],
        )


def settings(cfg: DictConfig) -> Json:
    """Return what decides an opinion, as plain data; of the policy its name, wherever it lies on this machine."""
    whole = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(whole, dict)
    source = str(cfg.policy.path_or_id)
    name = Path(source).name if Path(source).is_absolute() or Path(source).is_dir() else source
    return {**{key: whole[key] for key in SETTINGS}, "policy": name}


def lacking(runs: Sequence[Path], wanted: Json) -> list[Path]:
    """Return the runs that have no opinion of these settings."""
    return [run for run in runs if read(run).get("settings") != wanted]


def read(run: Path) -> Json:
    """Return the opinion on a run: `settings`, and `iterations` by number; empty where there is none."""
    path = RunDirectory(run).second_opinion
    found: Json = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def ask(runs: Sequence[Path], cfg: DictConfig, *, console: Console) -> None:
    """Write the opinions on runs; the model is loaded once, and not at all where no run lacks one."""
    wanted = settings(cfg)
    if not (todo := lacking(runs, wanted)):
        say("nothing to do: every run has this second opinion", console=console)
        return
    from experiments import composition
    from rzero.processes.cpu import set_up_cpu

    set_up_cpu(threads=cfg.threads, kernels=cfg.cpu_kernels)
    quiet_libraries()
    composition.require_weights(cfg.policy)
    drawing: Json = {str(key): value for key, value in cfg.sampling.items()}
    sampling = Sampling(n=cfg.votes, seed=cfg.seed, **drawing)
    with ExitStack() as opened:
        grader = instantiate(cfg.grader)
        if hasattr(grader, "close"):
            opened.callback(grader.close)
        engine = opened.enter_context(closing(instantiate(cfg.engine)))
        engine.sync(composition.policy_loader(cfg.policy)(str(cfg.policy.path_or_id)))
        prompts = instantiate(cfg.prompts)
        asking = Asking(prompts=prompts, grader=grader, questions=cfg.questions, sampling=sampling)
        posed = [(run, number) for run in todo for number in iterations(run)]
        found: dict[Path, Json] = {run: {} for run in todo}
        with progress("second opinion", total=len(posed), console=console) as meter:
            for run, number in posed:
                labelled = JsonlBank(RunDirectory(run)).get(number)
                found[run][str(number)] = asdict(asking.opinion(engine, labelled, iteration=number))
                if number == iterations(run)[-1]:
                    written = {"settings": wanted, "iterations": found[run]}
                    write_atomically(RunDirectory(run).second_opinion, json.dumps(written).encode())
                meter.advance(f"{run.name}, iteration {number}")


def iterations(run: Path) -> list[int]:
    """Return the iterations of a run that have posed questions."""
    return [number for number in RunDirectory(run).iterations() if RunDirectory(run).questions(number).is_file()]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("experiments.second_opinion", __doc__)
    parser.add_argument("run", type=place, metavar="RUN", help="directory of a run, or a folder of runs")
    add_overrides(parser)
    options = parser.parse_intermixed_args(arguments)

    def work() -> int:
        given = expand_policy(options.overrides, config_dir=options.config_dir)
        cfg = compose(*given, config="second_opinion", config_dir=options.config_dir)
        check(cfg, SMALLEST)
        runs, console = runs_in([options.run]), Console()
        for run in runs:
            require_run(run)
            if not iterations(run):
                raise ValueError(f"{run} has posed no question yet")
        ask(runs, cfg, console=console)
        for run in runs:
            for number, opinion in read(run)["iterations"].items():
                share = f"{100 * opinion['accuracy']:.1f} % of {opinion['asked']} pseudo-labels"
                say(f"{run.name}, iteration {number}: {share} are the larger model's answer", console=console)
        return DONE

    return exit_code(work, stopped="the same command goes on with the next run")


if __name__ == "__main__":
    sys.exit(main())
