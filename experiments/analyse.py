"""Carry out the paper's analyses of a run; analyses.json and PNGs are written into its directory.

    python -m experiments.analyse RUN                                     # diversity, pass@k, contamination, matrix
    python -m experiments.analyse RUN --benchmarks math --data-dir FOLDER # contamination against these
    python -m experiments.analyse RUN --no-matrix                         # nothing is generated

diversity: clusters and entropy of each iteration's questions. pass@k beside maj@k of each Solver. contamination: n-gram
overlap of each iteration's questions, and of the prompts, with every benchmark. matrix: how hard the questions of
iteration i are for the Solver of iteration j (j = 0: the base model); where the micro world's oracle knows a question,
also how often the Solver is right, and how often the pseudo-label was.

Exit codes: 0 written, 2 a wrong path, a damaged file or a wrong value.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from hydra.utils import instantiate
from matplotlib.figure import Figure
from omegaconf import DictConfig
from rich.console import Console

from evaluation.analyses import difficulty, diversity, pass_curve
from evaluation.contamination import overlaps
from evaluation.micro.world import oracle
from evaluation.problems import Benchmark
from experiments.command_line import DONE, add_config_dir, command_parser, exit_code, say
from experiments.compose import compose, importable
from experiments.paths import place
from experiments.provenance import start_day
from experiments.recipe import modern
from experiments.reporting import figures
from experiments.reporting.data import Iteration, Run, iteration_name, read_run
from experiments.resolvers import register_resolvers
from experiments.terminal import progress, quiet_libraries, waiting
from rzero.durable import write_atomically
from rzero.grading import MathGrader
from rzero.interfaces import Grader
from rzero.prompts import set_day
from rzero.seeding import derive
from rzero.types import Json, Sampling
from rzero.voting import PaperVote


def kept_questions(iteration: Iteration) -> list[str]:
    return [question.question for question in iteration.questions if question.kept]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The analyses asked for. n: words of an n-gram. questions, samples: of each iteration and question in the matrix.

    suite, data_dir: the benchmarks of the contamination report, those of the run itself when not given.
    """

    n: int
    questions: int
    samples: int
    matrix: bool
    suite: str | None = None
    data_dir: str | None = None
    config_dir: Path | None = None

    def __post_init__(self) -> None:
        for name in ("n", "questions", "samples"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"--{name} must be at least 1, got {value}")


def benchmarks_of(run: Run, asked: Asked, *, grader: Grader) -> Sequence[Benchmark]:
    """Return the benchmarks of the suite that was asked for, or of the one that the run was evaluated with."""
    config = modern(run.config)
    if asked.suite is not None:
        place = [f"benchmarks.source.data_dir={asked.data_dir}"] if asked.data_dir else []
        config = compose(
            f"benchmarks={asked.suite}", *place, config_dir=asked.config_dir, run_directory=run.directory.path
        )
    parts = {"prompts": instantiate(run.config.prompts), "grader": grader, "vote": PaperVote(grader)}
    found: Sequence[Benchmark] = instantiate(config.benchmarks, **parts)().benchmarks
    return found


def of_prompts(run: Run, benchmarks: Sequence[Benchmark], *, n: int) -> list[Json]:
    """Return the overlaps of the run's prompts: a benchmark's question among their examples is answered by copying."""
    prompts = instantiate(run.config.prompts)
    asked = [text for prompt in (prompts.challenger(), prompts.solver("")) for text in (prompt.system, prompt.user)]
    return [asdict(found) for found in overlaps([text for text in asked if text], benchmarks, n=n)]


def label_accuracy(iteration: Iteration, *, accepts: Callable[[str, str], bool]) -> float | None:
    """Share of kept questions whose pseudo-label is right, among those that the oracle knows; None without any."""
    voted = [(question, question.vote) for question in iteration.questions if question.kept and question.vote]
    known = [(vote.label, answer[1]) for question, vote in voted if (answer := oracle(question.question))]
    return fmean(label is not None and accepts(label, truth) for label, truth in known) if known else None


def solvers(run: Run) -> list[str]:
    """Return where every Solver is, the base model first; an iteration that trained none kept the one before."""
    paths = [str(run.config.policy.path_or_id)]
    for iteration in run.trained:
        path = run.directory.weights("solver", iteration.number)
        paths.append(str(path) if path.is_dir() else paths[-1])
    return paths


def matrix(run: Run, *, grader: MathGrader, questions: int, samples: int, console: Console) -> list[list[Json]]:
    """Rows: iterations whose questions are asked; columns: Solvers, the base model first."""
    config: DictConfig = run.config
    from experiments import composition
    from rzero.processes.cpu import set_up_cpu

    set_up_cpu(threads=config.threads, kernels=config.cpu_kernels)  # as the run itself
    quiet_libraries()
    sampling: Json = dict(config.challenger.polling.sampling)
    prompts, load = instantiate(config.prompts), composition.policy_loader(config.policy)
    asked = {
        iteration.number: kept_questions(iteration)[:questions]
        for iteration in run.trained
        if any(question.kept for question in iteration.questions)
    }
    cells: dict[int, list[Json]] = {number: [] for number in asked}
    engine, paths = instantiate(config.engine), solvers(run)
    answers = [samples * len(texts) for texts in asked.values()]
    try:
        with progress("matrix, answers", total=sum(answers) * len(paths), console=console) as meter:
            for path in paths:
                policy = load(path)
                set_day(policy.tokenizer, start_day(run.path))
                engine.sync(policy)
                for number, texts in asked.items():
                    before, truths = meter.done, [known[1] if (known := oracle(text)) else None for text in texts]
                    cell = difficulty(
                        texts,
                        engine,
                        prompts=prompts,
                        vote_many=PaperVote(grader).vote_many,
                        sampling=Sampling(n=samples, seed=derive(run.seed, "matrix", number), **sampling),
                        references=truths,
                        accepts=grader.accepts,
                        progress=lambda done, _, __=0, before=before: meter.reach(before + done),
                    )
                    meter.reach(before + samples * len(texts))
                    cells[number].append(asdict(cell))
    finally:
        engine.close()
    return list(cells.values())


def analyse(run: Run, asked: Asked, console: Console) -> Json:
    """Return all analyses as plain data."""
    register_resolvers(run.path)
    with closing(instantiate(run.config.grader)) as grader:
        return {
            **of_questions(run, asked, grader=grader, console=console),
            "pass_at": {iteration_name(number): pass_curve(scores) for number, scores in run.scores},
            "maj_at": {
                iteration_name(number): {name: row["maj@k"] for name, row in scores.table().items()}
                for number, scores in run.scores
            },
            "matrix": matrix(run, grader=grader, questions=asked.questions, samples=asked.samples, console=console)
            if asked.matrix
            else [],
        }


def of_questions(run: Run, asked: Asked, *, grader: MathGrader, console: Console) -> Json:
    """Return what is said about the questions of each iteration, with nothing drawn."""
    with waiting("reading the benchmarks", console=console):
        benchmarks = benchmarks_of(run, asked, grader=grader)
    found: Json = {"diversity": {}, "label_accuracy": {}, "contamination": {}}
    prompts = of_prompts(run, benchmarks, n=asked.n)
    if any(overlap["overlapping"] for overlap in prompts):
        found["contamination"]["prompts"] = prompts
    with progress("questions of iterations", total=len(run.trained), console=console) as meter:
        for iteration in run.trained:
            name, kept = iteration.name, kept_questions(iteration)
            if kept:
                found["diversity"][name] = asdict(diversity(kept))
            found["label_accuracy"][name] = label_accuracy(iteration, accepts=grader.accepts)
            if iteration.questions:
                found["contamination"][name] = [asdict(overlap) for overlap in overlaps(kept, benchmarks, n=asked.n)]
            meter.advance(name)
    return found


def draw_matrix(cells: Sequence[Sequence[Json]]) -> Figure:
    """Agreement of Solver j on the questions of iteration i; accuracy below it where an oracle knows."""
    values = np.array([[cell["agreement"] for cell in row] for row in cells])
    figure = Figure(figsize=(1.6 + 1.1 * values.shape[1], 1.4 + 0.8 * values.shape[0]), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(visible=False)
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


def draw_pass(data: Json) -> Figure:
    """pass@j averaged over benchmarks, by iteration, with maj@k as a dot at the right end."""
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
    axes.legend()
    return figure


def show(data: Json, console: Console) -> None:
    for name, found in data["diversity"].items():
        label = data["label_accuracy"].get(name)
        say(
            f"{name}: {found['questions']} questions kept, {found['distinct']:.0%} distinct, {found['clusters']:.0%} "
            f"clusters" + (f", {label:.0%} of the labels right" if label is not None else ""),
            console=console,
        )
    for name, found in data["contamination"].items():
        touched = [f"{o['benchmark']} {o['overlapping']}" for o in found if o["overlapping"]]
        say(f"{name}: questions sharing an n-gram with {', '.join(touched) or 'no benchmark'}", console=console)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("experiments.analyse", __doc__)
    parser.add_argument("run", type=place, metavar="RUN", help="a run directory")
    parser.add_argument("--benchmarks", help="a suite of conf/benchmarks for the contamination report")
    parser.add_argument("--data-dir", metavar="DIR", help="its local folder")
    parser.add_argument("--n", type=int, default=13, help="words in an n-gram (13)")
    parser.add_argument("--questions", type=int, default=100, help="questions per iteration in the matrix (100)")
    parser.add_argument("--samples", type=int, default=8, help="answers per question in the matrix (8)")
    parser.add_argument("--no-matrix", dest="matrix", action="store_false", help="generate nothing")
    add_config_dir(parser)
    options = parser.parse_args(arguments)

    def read() -> Asked:
        return Asked(
            n=options.n,
            questions=options.questions,
            samples=options.samples,
            matrix=options.matrix,
            suite=options.benchmarks,
            data_dir=options.data_dir,
            config_dir=options.config_dir,
        )

    stopped = "nothing was written: the same command starts again, --no-matrix draws nothing"
    return exit_code(lambda: _write(options.run, read(), Console()), stopped=stopped)


def _write(path: Path, asked: Asked, console: Console) -> int:
    if asked.config_dir:
        importable(asked.config_dir)
    run = read_run(path)
    data = analyse(run, asked, console)
    write_atomically(run.directory.analyses, json.dumps(data, indent=1).encode())
    if data["matrix"]:
        figures.save(lambda: draw_matrix(data["matrix"]), run.path / "matrix.png")
    if any(data["pass_at"].values()):
        figures.save(lambda: draw_pass(data), run.path / "pass_at_k.png")
    show(data, console)
    say(f"written: {run.directory.analyses}", console=console)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
