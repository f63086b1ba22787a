"""Evaluate checkpoints: any directory or hub id, one or several, any suite of conf/benchmarks.

    python -m experiments.evaluate policy=Qwen/Qwen3-4B-Base benchmarks=math
    python -m experiments.evaluate policy=DIR,DIR,DIR benchmarks=paper benchmarks.source.data_dir=FOLDER
    python -m experiments.evaluate policy=DIR benchmarks=math benchmarks.source.limit=20 engine.threads=2
    python -m experiments.evaluate policy=DIR benchmarks=reasoning_gym directory=outputs/gym

Everything lands in `directory` (outputs/evaluate): responses, scores, lm-eval's own result files, table.md. What is
there is not done again, so the same command goes on after an interruption, and a further checkpoint costs only itself.

Exit codes: 0 finished; 1 stopped by the user (resumable); 2 a wrong value, path or place.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from evaluation.metrics import PROTOCOLS, Scores, standard_errors
from experiments import PROJECT, composition, rundir
from experiments.resolvers import register_resolvers
from experiments.run import STOPPED, WRONG, check, expand_policy, quiet_libraries
from experiments.terminal import print_table
from rzero.durable import write_atomically
from rzero.escaping import markdown_cell
from rzero.policy import Policy
from rzero.processes.cpu import set_up_cpu
from rzero.prompts import encode_prompt
from rzero.types import Prompt
from rzero.voting import PaperVote

DIRECTORY = Path("outputs/evaluate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """One checkpoint's scores. `notes`: prompts over the context, cut completions, a remote judge's upgrades."""

    policy: str
    weights: str
    scores: Scores
    notes: dict[str, Any]


def configurations(arguments: Sequence[str]) -> list[tuple[str, DictConfig]]:
    """One configuration per checkpoint of `policy=A,B,...`; without prompts=... they suit policy and benchmarks."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    policies = given.get("policy", "micro").split(",")
    others = [argument for argument in arguments if not argument.startswith("policy=")]
    composed = []
    register_resolvers(Path(given.get("directory") or DIRECTORY))
    with initialize_config_dir(config_dir=str(PROJECT / "conf"), version_base="1.3"):
        for policy in policies:
            micro = policy == "micro" or given.get("benchmarks", "micro").startswith("micro")
            chosen = [] if "prompts" in given else [f"prompts={'micro' if micro else 'default'}"]
            composed.append(
                (policy, compose("config", overrides=expand_policy([f"policy={policy}", *chosen, *others])))
            )
    return composed


def fits(policy: Policy) -> Callable[[Prompt], bool]:
    """Whether a prompt leaves room for a response in the model's context."""
    context = policy.context()
    return lambda prompt: context is None or len(encode_prompt(policy.tokenizer, prompt)) < context


def evaluate(name: str, cfg: DictConfig, suite: Any, *, directory: Path, progress: Any) -> Evaluated:
    """One checkpoint through `suite`; its scores are also written to `<directory>/scores/<weights>.json`."""
    policy = composition.policy_loader(cfg.policy)(str(cfg.policy.path_or_id))
    weights = policy.weights_hash()
    engine = instantiate(cfg.engine)
    try:
        engine.sync(policy)
        notes: dict[str, Any] = {}
        if hasattr(suite, "report"):
            scores = suite.evaluate(
                engine, weights=weights, fits=fits(policy), progress=progress.benchmark, on_call=progress.document
            )
            notes = {"too_long": dict(suite.report.too_long), "truncated": dict(suite.report.truncated)}
            notes["upgraded"] = {name: review.upgraded for name, review in suite.report.reviews.items()}
        else:
            scores = suite.evaluate(engine, progress=progress.benchmark)
    finally:
        engine.close()
    data = {"policy": str(cfg.policy.path_or_id), "weights": weights, "notes": notes, "scores": scores.to_json()}
    path = directory / "scores" / f"{cfg_name(cfg)}_{weights[:16]}.json"
    write_atomically(path, json.dumps(data).encode())
    return Evaluated(policy=name, weights=weights, scores=scores, notes=notes)


def cfg_name(cfg: DictConfig) -> str:
    """The suite's tasks in a file name: two suites over one checkpoint are two files."""
    tasks = cfg.benchmarks.get("tasks")
    return "micro" if tasks is None else "-".join(tasks) if len(tasks) <= 3 else f"{tasks[0]}-and-{len(tasks) - 1}-more"


class Bars:
    """Progress over benchmarks and, below, over the documents of the current one."""

    def __init__(self, progress: Progress, *, title: str, total: int) -> None:
        self.bar, self.total = progress, total
        self.outer = progress.add_task(title, total=total)
        self.inner = progress.add_task("", total=1)

    def benchmark(self, done: int, total: int) -> None:
        self.bar.update(self.outer, completed=done, total=total)

    def document(self, what: str, done: int, total: int) -> None:
        self.bar.update(self.inner, description=what, completed=done, total=total)


class Lines:
    """The same for a log file: one line per finished benchmark."""

    def __init__(self, console: Console, *, title: str) -> None:
        self.console, self.title = console, title

    def benchmark(self, done: int, total: int) -> None:
        self.console.print(f"{self.title}: {done}/{total} benchmarks", highlight=False, markup=False, soft_wrap=True)

    def document(self, what: str, done: int, total: int) -> None: ...


@contextmanager
def shown(console: Console, *, title: str, total: int) -> Any:
    if not console.is_terminal:
        yield Lines(console, title=title)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bars(progress, title=title, total=total)


def table_of_one(result: Evaluated) -> tuple[list[str], list[list[str]]]:
    """Header and rows: every protocol's column, with standard errors over problems."""
    errors = standard_errors(result.scores)
    rows = []
    for name, row in result.scores.table().items():
        cells = [f"{row[p]:.2f} ±{errors[name][p]:.1f}" if name in errors else f"{row[p]:.2f}" for p in PROTOCOLS]
        rows.append([name, *cells, f"{row['greedy well-formed']:.1f}"])
    k = result.scores.k
    return ["benchmark", "greedy", f"mean@{k}", f"maj@{k}", f"pass@{k}", "boxed"], rows


def table_of_several(results: Sequence[Evaluated]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: the score that counts, one column per checkpoint."""
    headline = results[0].scores.headline
    tables = [result.scores.table() for result in results]
    rows = [
        [name, *(f"{sum(table[name][p] for p in headline) / len(headline):.2f}" for table in tables)]
        for name in tables[0]
    ]
    rows.append(["overall", *(f"{result.scores.overall:.2f}" for result in results)])
    return [f"mean of {' and '.join(headline)}", *(result.policy for result in results)], rows


def notes_of(result: Evaluated) -> list[str]:
    """Sentences about what a reader of the table must know."""
    found = []
    for benchmark, count in result.notes.get("too_long", {}).items():
        if count:
            found.append(f"{benchmark}: {count} questions do not fit the model's context and count as wrong")
    for benchmark, count in result.notes.get("truncated", {}).items():
        if count:
            found.append(f"{benchmark}: {count} responses ran into the token limit")
    for benchmark, count in result.notes.get("upgraded", {}).items():
        found.append(f"{benchmark}: the remote judge would upgrade {count} greedy answers (not counted)")
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
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    lines = ["| " + " | ".join(map(markdown_cell, cells)) + " |" for cells in (header, *rows)]
    lines.insert(1, "|" + " --- |" * len(header))
    text = "\n".join([*lines, "", *(f"* {markdown_cell(note)}" for note in notes), ""])
    write_atomically(directory / "table.md", text.encode())


def run(arguments: Sequence[str], *, console: Console) -> None:
    """Everything from the command line to the table."""
    configured = configurations(arguments)
    first = configured[0][1]
    check(first)
    set_up_cpu(threads=first.threads, kernels=first.cpu_kernels)
    quiet_libraries()
    directory = Path(first.directory or DIRECTORY)
    directory.mkdir(parents=True, exist_ok=True)
    grader = instantiate(first.grader)
    parts = {"prompts": instantiate(first.prompts), "grader": grader, "vote": PaperVote(grader)}
    try:
        suite = instantiate(first.benchmarks, **parts)()
        results = []
        with rundir.locked(directory):
            for name, cfg in configured:
                with shown(console, title=name, total=len(suite.benchmarks)) as progress:
                    results.append(evaluate(name, cfg, suite, directory=directory, progress=progress))
            show(results, console=console, directory=directory)
    finally:
        if hasattr(grader, "close"):
            grader.close()
    console.print(f"written to {directory}", highlight=False, markup=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    complaints = Console(stderr=True)

    def complain(text: object, code: int) -> int:
        complaints.print(f"error: {text}", style="bold red", highlight=False, markup=False, soft_wrap=True)
        return code

    try:
        run(arguments, console=Console())
    except KeyboardInterrupt:
        return complain("stopped by the user; the same command goes on from here", STOPPED)
    except (ValueError, KeyError, OSError, ImportError, RuntimeError, HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__ if isinstance(error, HydraException) and error.__cause__ else error
        return complain(cause, WRONG)
    return 0


if __name__ == "__main__":
    sys.exit(main())
