"""The paper's analyses of a run, written into its directory as analyses.json and PNGs.

    python -m experiments.analyse RUN                                     # diversity, pass@k, contamination, matrix
    python -m experiments.analyse RUN --benchmarks math --data-dir FOLDER # contamination against these
    python -m experiments.analyse RUN --no-matrix                         # nothing is generated

diversity: clusters and entropy of each round's questions. pass@k beside maj@k of each round's Solver. contamination:
n-gram overlap of each round's questions with every benchmark. matrix: how hard round i's questions are for round j's
Solver (j = 0: the base model); where the micro world's oracle knows a question, also how often the Solver is right, and
how often the pseudo-label was.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from matplotlib.figure import Figure
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track

from evaluation.analyses import difficulty, diversity, pass_curve
from evaluation.contamination import overlaps
from evaluation.micro.world import oracle
from evaluation.problems import Benchmark
from experiments import PROJECT, composition
from experiments.reporting.data import Round, Run, read_run
from experiments.resolvers import register_resolvers
from rzero.durable import write_atomically
from rzero.grading import MathGrader
from rzero.seeding import derive
from rzero.types import Sampling
from rzero.voting import PaperVote


def kept_questions(turn: Round) -> list[str]:
    return [question.question for question in turn.questions if question.kept]


def benchmarks_of(run: Run, *, suite: str | None, data_dir: str | None, grader: Any) -> Sequence[Benchmark]:
    """The benchmarks of the named suite, or of the one that the run itself was evaluated with."""
    config = run.config
    if suite is not None:
        overrides = [f"benchmarks={suite}", *([f"benchmarks.source.data_dir='{data_dir}'"] if data_dir else [])]
        with initialize_config_dir(config_dir=str(PROJECT / "conf"), version_base="1.3"):
            config = compose("config", overrides=overrides)
    parts = {"prompts": instantiate(run.config.prompts), "grader": grader, "vote": PaperVote(grader)}
    found: Sequence[Benchmark] = instantiate(config.benchmarks, **parts)().benchmarks
    return found


def contamination(run: Run, benchmarks: Sequence[Benchmark], *, n: int) -> dict[str, list[dict[str, Any]]]:
    """Every round's kept questions against every benchmark."""
    return {
        turn.name: [asdict(found) for found in overlaps(kept_questions(turn), benchmarks, n=n)]
        for turn in run.trained
        if turn.questions
    }


def label_accuracy(turn: Round, *, accepts: Callable[[str, str], bool]) -> float | None:
    """Share of kept questions whose pseudo-label is right, among those that the oracle knows; None without any."""
    known = [(q.vote.label, answer[1]) for q in turn.questions if q.kept and q.vote and (answer := oracle(q.question))]
    return fmean(label is not None and accepts(label, truth) for label, truth in known) if known else None


def solvers(run: Run) -> list[str]:
    """Where every round's Solver is, the base model first; a round that trained none kept the one before."""
    paths = [str(run.config.policy.path_or_id)]
    for turn in run.trained:
        path = run.path / f"iteration_{turn.iteration}" / "solver"
        paths.append(str(path) if path.is_dir() else paths[-1])
    return paths


def matrix(
    run: Run, *, grader: MathGrader, questions: int, samples: int, console: Console
) -> list[list[dict[str, Any]]]:
    """Rows: rounds whose questions are asked; columns: Solvers, the base model first."""
    config: DictConfig = run.config
    sampling: dict[str, Any] = dict(config.challenger.polling.sampling)
    prompts, load = instantiate(config.prompts), composition.policy_loader(config.policy)
    asked = {
        turn.iteration: kept_questions(turn)[:questions] for turn in run.trained if any(q.kept for q in turn.questions)
    }
    cells: dict[int, list[dict[str, Any]]] = {iteration: [] for iteration in asked}
    engine = instantiate(config.engine)
    try:
        for path in track(solvers(run), description="Solvers", console=console, transient=True):
            engine.sync(load(path))
            for iteration, texts in asked.items():
                truths = [known[1] if (known := oracle(text)) else None for text in texts]
                cell = difficulty(
                    texts,
                    engine,
                    prompts=prompts,
                    vote_many=PaperVote(grader).vote_many,
                    sampling=Sampling(n=samples, seed=derive(run.seed, "matrix", iteration), **sampling),
                    references=truths,
                    accepts=grader.accepts,
                )
                cells[iteration].append(asdict(cell))
    finally:
        engine.close()
    return list(cells.values())


def analyse(run: Run, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """All analyses as plain data."""
    register_resolvers(run.path)
    with closing(instantiate(run.config.grader)) as grader:
        benchmarks = benchmarks_of(run, suite=options.benchmarks, data_dir=options.data_dir, grader=grader)
        return {
            "diversity": {t.name: asdict(diversity(kept_questions(t))) for t in run.trained if kept_questions(t)},
            "label_accuracy": {t.name: label_accuracy(t, accepts=grader.accepts) for t in run.trained},
            "pass_at": {t.name: pass_curve(t.scores) for t in run.evaluated if t.scores},
            "maj_at": {
                t.name: {name: row["maj@k"] for name, row in t.scores.table().items()}
                for t in run.evaluated
                if t.scores
            },
            "contamination": contamination(run, benchmarks, n=options.n),
            "matrix": matrix(run, grader=grader, questions=options.questions, samples=options.samples, console=console)
            if options.matrix
            else [],
        }


def draw_matrix(cells: Sequence[Sequence[dict[str, Any]]]) -> Figure:
    """Agreement of Solver j on the questions of round i; accuracy below it where an oracle knows."""
    values = np.array([[cell["agreement"] for cell in row] for row in cells])
    figure = Figure(figsize=(1.6 + 1.1 * values.shape[1], 1.4 + 0.8 * values.shape[0]), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    for i, row in enumerate(cells):
        for j, cell in enumerate(row):
            right = "" if cell["accuracy"] is None else f"\nright {cell['accuracy']:.2f}"
            colour = "white" if cell["agreement"] < 0.6 else "black"
            axes.text(j, i, f"{cell['agreement']:.2f}{right}", ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(values.shape[1]), ["base", *(f"S{j}" for j in range(1, values.shape[1]))])
    axes.set_yticks(range(values.shape[0]), [f"questions {i}" for i in range(1, values.shape[0] + 1)])
    figure.colorbar(image, label="agreement of the Solver")
    return figure


def draw_pass(data: dict[str, Any]) -> Figure:
    """pass@j averaged over benchmarks, by round, with maj@k as a dot at the right end."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, curves in data["pass_at"].items():
        if not curves:
            continue
        draws = sorted(next(iter(curves.values())))
        [line] = axes.plot(draws, [fmean(c[j] for c in curves.values()) for j in draws], marker="o", label=name)
        majority = fmean(data["maj_at"][name][benchmark] for benchmark in curves)
        axes.plot(draws[-1], majority, marker="x", color=line.get_color(), linestyle="none")
    axes.set_xscale("log", base=2)
    axes.set_xlabel("j samples")
    axes.set_ylabel("pass@j (cross: maj@k), percent")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def show(data: dict[str, Any], console: Console) -> None:
    for name, found in data["diversity"].items():
        label = data["label_accuracy"].get(name)
        console.print(
            f"{name}: {found['questions']} questions kept, {found['distinct']:.0%} distinct, {found['clusters']:.0%} "
            f"clusters" + (f", {label:.0%} of the labels right" if label is not None else ""),
            highlight=False,
        )
    for name, found in data["contamination"].items():
        touched = [f"{o['benchmark']} {o['overlapping']}" for o in found if o["overlapping"]]
        console.print(
            f"{name}: questions sharing an n-gram with {', '.join(touched) or 'no benchmark'}", highlight=False
        )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.analyse", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument("--benchmarks", help="a suite of conf/benchmarks for the contamination report")
    parser.add_argument("--data-dir", help="its local folder")
    parser.add_argument("--n", type=int, default=13, help="words in an n-gram (13)")
    parser.add_argument("--questions", type=int, default=100, help="questions per round in the matrix (100)")
    parser.add_argument("--samples", type=int, default=8, help="answers per question in the matrix (8)")
    parser.add_argument("--no-matrix", dest="matrix", action="store_false", help="generate nothing")
    options = parser.parse_args(arguments)
    console = Console()
    try:
        run = read_run(options.run)
        data = analyse(run, options, console)
        write_atomically(run.path / "analyses.json", json.dumps(data, indent=1).encode())
        if data["matrix"]:
            draw_matrix(data["matrix"]).savefig(run.path / "matrix.png", dpi=130)
        if any(data["pass_at"].values()):
            draw_pass(data).savefig(run.path / "pass_at_k.png", dpi=130)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    show(data, console)
    console.print(f"written: {run.path / 'analyses.json'}", highlight=False, markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
