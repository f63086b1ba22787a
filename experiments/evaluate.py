"""Evaluate checkpoints: any directory or hub id, one or several, any suite of conf/benchmarks.

    python -m experiments.evaluate policy=Qwen/Qwen3-4B-Base benchmarks=math
    python -m experiments.evaluate policy=DIR,DIR,DIR benchmarks=paper benchmarks.source.data_dir=FOLDER
    python -m experiments.evaluate policy=DIR benchmarks=math benchmarks.source.limit=20 engine.threads=2
    python -m experiments.evaluate policy=DIR benchmarks=reasoning_gym directory=outputs/gym

Everything lands in `directory` (outputs/evaluate): responses, scores, lm-eval's own result files, table.md. What is
there is not done again, so the same command goes on after an interruption, and a further checkpoint costs only itself.
Other weights, another tokenizer, chat template, prompt, engine, dtype, decoding or task are asked anew.

Exit codes: 0 finished; 1 stopped by the user (resumable); 2 a wrong value, path or place.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from evaluation.metrics import PROTOCOLS, Scores, standard_errors
from evaluation.report import Notes
from experiments import rundir
from experiments.command_line import DONE, add_overrides, check, command_parser, exit_code, expand_policy, say
from experiments.compose import compose
from experiments.paths import meant, places
from experiments.reporting.markdown import markdown_table
from experiments.terminal import print_table, progress, quiet_libraries, waiting
from rzero.durable import write_atomically
from rzero.escaping import markdown_cell
from rzero.interfaces import Progress
from rzero.runs.progress import Meter, Part
from rzero.voting import PaperVote

if TYPE_CHECKING:
    from evaluation.harness import HarnessSuite

DIRECTORY = Path("outputs/evaluate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """One checkpoint's scores, and by benchmark what a reader of them has to know."""

    policy: str
    scores: Scores
    notes: Mapping[str, Notes]


def configurations(arguments: Sequence[str], *, config_dir: Path | None = None) -> list[tuple[str, DictConfig]]:
    """One configuration per checkpoint of `policy=A,B,...`; without prompts=... they suit policy and benchmarks."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    policies = places(given.get("policy", "micro"))
    others = [argument for argument in arguments if not argument.startswith("policy=")]
    directory = Path(meant(given["directory"])) if given.get("directory") else DIRECTORY
    composed = []
    for policy in policies:
        micro = policy == "micro" or given.get("benchmarks", "micro").startswith("micro")
        chosen = [] if "prompts" in given else [f"prompts={'micro' if micro else 'default'}"]
        chosen += [] if "benchmarks.folder" in given else ["benchmarks.folder=${run_directory:}/evaluations"]
        overrides = expand_policy([f"policy={policy}", *chosen, *others], config_dir=config_dir)
        composed.append((policy, compose(*overrides, config_dir=config_dir, run_directory=directory)))
    return composed


def evaluate(
    name: str, cfg: DictConfig, suite: HarnessSuite, *, directory: Path, rows: Rows, console: Console
) -> Evaluated:
    """One checkpoint through `suite`; its scores also go to `<directory>/scores/<tasks>_<weights>_<key>.json`."""
    from experiments import composition
    from rzero.policy_check import findings
    from rzero.prompts import set_day

    policy = composition.policy_loader(cfg.policy)(str(cfg.policy.path_or_id))
    set_day(policy.tokenizer, first_day(directory))
    for finding in findings(policy, suite.prompts):
        if finding.state == "note":
            say(f"{name}: {finding.line()}", console=console)
    engine = instantiate(cfg.engine)
    try:
        engine.sync(policy)
        found = suite.evaluate(
            engine,
            policy=policy,
            progress=rows.benchmark,
            watch=rows.watch,
        )
    finally:
        engine.close()
    suite.write_lm_results(found)
    data = {
        "policy": str(cfg.policy.path_or_id),
        "weights": found.weights,
        "notes": {benchmark: asdict(notes) for benchmark, notes in found.notes.items()},
        "scores": found.to_json(),
    }
    path = directory / "scores" / f"{tasks_in_a_name(list(suite.tasks))}_{found.weights[:16]}_{found.key[:8]}.json"
    write_atomically(path, json.dumps(data).encode())
    return Evaluated(policy=name, scores=found.scores, notes=found.notes)


def first_day(directory: Path) -> date:
    """The date for prompts that show one: that of the first evaluation into this directory, which goes on with it.

    Raises ValueError when the file that keeps it holds something else.
    """
    path = directory / "date.txt"
    if not path.exists():
        write_atomically(path, datetime.now(UTC).date().isoformat().encode())
    try:
        return date.fromisoformat(path.read_text(encoding="utf-8").strip())
    except ValueError as error:
        raise ValueError(f"{path} holds no date such as 2026-01-31 ({error}); write one or remove it") from error


def tasks_in_a_name(tasks: Sequence[str]) -> str:
    """A suite's tasks in a file name: two suites over one checkpoint are two files."""
    return "-".join(tasks) if len(tasks) <= 3 else f"{tasks[0]}-and-{len(tasks) - 1}-more"


class Rows:
    """The progress of a suite, counted in responses over all benchmarks; those that are kept already count at once."""

    def __init__(self, meter: Meter, sizes: Sequence[int]) -> None:
        self.meter, self.sizes = meter, sizes
        self.before, self.of_part = 0, 0

    def benchmark(self, done: int, total: int, tokens: int = 0, /) -> None:
        """A benchmark is done."""
        self.before, self.of_part = sum(self.sizes[:done]), 0
        self.meter.reach(self.before, f"{done} of {total} benchmarks")

    def watch(self, what: str) -> Progress:
        """One decoding of a benchmark begins; its responses are counted."""
        self.before, self.of_part = self.before + self.of_part, 0
        part = Part(what, tell=self.meter.now)

        def told(done: int, total: int, tokens: int = 0, /) -> None:
            self.of_part = total
            self.meter.count(self.before + done)
            part(done, total, tokens)

        return told


def responses(suite: HarnessSuite) -> list[int]:
    """Return how many responses each benchmark asks for."""
    return [
        len(task.documents) * sum(sampling.n for sampling in suite.samplings[name].values())
        for name, task in suite.tasks.items()
    ]


def table_of_one(result: Evaluated) -> tuple[list[str], list[list[str]]]:
    """Header and rows: every protocol's column, with standard errors over problems, and the truncated shares."""
    errors = standard_errors(result.scores)
    rows = []
    for name, row in result.scores.table().items():
        cells = [f"{row[p]:.2f} ±{errors[name][p]:.1f}" if name in errors else f"{row[p]:.2f}" for p in PROTOCOLS]
        rows.append([name, *cells, f"{row['greedy well-formed']:.1f}", truncated(result.notes.get(name))])
    k = result.scores.k
    return ["benchmark", "greedy", f"mean@{k}", f"maj@{k}", f"pass@{k}", "boxed", "truncated"], rows


def truncated(notes: Notes | None) -> str:
    """The percentage of responses that ran into the token limit, greedy / sampled; empty for an average."""
    return " / ".join(f"{100 * share:.1f}" for share in notes.truncated.values()) if notes else ""


def table_of_several(results: Sequence[Evaluated]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: the score that counts and the truncated shares beside it, two columns per checkpoint."""
    headline = results[0].scores.headline
    rows = []
    for name in results[0].scores.table():
        cells = []
        for result in results:
            row = result.scores.table()[name]
            cells += [f"{sum(row[p] for p in headline) / len(headline):.2f}", truncated(result.notes.get(name))]
        rows.append([name, *cells])
    rows.append(["overall", *(cell for result in results for cell in (f"{result.scores.overall:.2f}", ""))])
    names = (cell for result in results for cell in (result.policy, "truncated"))
    return [f"mean of {' and '.join(headline)}", *names], rows


def notes_of(result: Evaluated) -> list[str]:
    """Sentences about what a reader of the table must know."""
    found = []
    for benchmark, notes in result.notes.items():
        if notes.too_long:
            found.append(f"{benchmark}: {notes.too_long} questions do not fit the model's context and count as wrong")
        for decoding, share in notes.truncated.items():
            if share:
                found.append(f"{benchmark}: {100 * share:.1f} % of the {decoding} responses ran into the token limit")
        if notes.review:
            upgraded = notes.review.upgraded
            found.append(f"{benchmark}: the remote judge would upgrade {upgraded} greedy answers (not counted)")
    return [f"{result.policy}: {sentence}" for sentence in found]


def show(results: Sequence[Evaluated], *, console: Console, directory: Path) -> None:
    """Print the table and its notes, and write both to `<directory>/table.md`."""
    header, rows = table_of_one(results[0]) if len(results) == 1 else table_of_several(results)
    table = Table(title=results[0].policy if len(results) == 1 else None)
    for number, column in enumerate(header):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    print_table(console, table)
    notes = [note for result in results for note in notes_of(result)]
    for note in notes:
        say(note, console=console)
    whole = markdown_table(list(map(markdown_cell, header)), [list(map(markdown_cell, row)) for row in rows])
    text = "\n".join([whole, "", *(f"* {markdown_cell(note)}" for note in notes), ""])
    write_atomically(directory / "table.md", text.encode())


def prepare(configured: Sequence[tuple[str, DictConfig]]) -> None:
    """Import what is slow to import, and raise what is wrong with the place of any checkpoint before the first one."""
    from experiments.composition import require_weights
    from rzero.processes.cpu import set_up_cpu

    first = configured[0][1]
    set_up_cpu(threads=first.threads, kernels=first.cpu_kernels)
    quiet_libraries()
    for _, cfg in configured:
        require_weights(cfg.policy)


def run(arguments: Sequence[str], *, console: Console, config_dir: Path | None = None) -> None:
    """Everything from the command line to the table."""
    configured = configurations(arguments, config_dir=config_dir)
    first = configured[0][1]
    check(first)
    with waiting("reading the benchmarks", console=console):
        prepare(configured)
        grader = instantiate(first.grader)
        parts = {"prompts": instantiate(first.prompts), "grader": grader, "vote": PaperVote(grader)}
        suite = instantiate(first.benchmarks, **parts)()
    directory = Path(first.directory or DIRECTORY)
    try:
        results = []
        directory.mkdir(parents=True, exist_ok=True)
        with rundir.locked(directory):
            for name, cfg in configured:
                sizes = responses(suite)
                with progress(name, total=sum(sizes), console=console, seconds=cfg.log_seconds) as meter:
                    rows = Rows(meter, sizes)
                    results.append(evaluate(name, cfg, suite, directory=directory, rows=rows, console=console))
            show(results, console=console, directory=directory)
    finally:
        if hasattr(grader, "close"):
            grader.close()
    say(f"written to {directory}", console=console)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("experiments.evaluate", __doc__)
    add_overrides(parser)
    options = parser.parse_intermixed_args(arguments)
    if not options.overrides:
        parser.print_help()
        return DONE

    def work() -> int:
        run(options.overrides, console=Console(), config_dir=options.config_dir)
        return DONE

    return exit_code(work, stopped="the same command goes on from here")


if __name__ == "__main__":
    sys.exit(main())
