"""Publish a finished run: Solver, Challenger and question set as the Hugging Face hub expects them.

    python -m experiments.publish RUN                              # to RUN/published/; needs no network
    python -m experiments.publish RUN --push owner/name            # and to owner/name-solver, -challenger, -questions
    python -m experiments.publish RUN --iteration 2 --output DIR
    python -m experiments.publish RUN --push owner/name --update   # a new commit where they exist already

Each is a folder with its card: scores, recipe, lineage and the licence of the base model; `recipe.yaml` is the
configuration. Adapters are merged. Questions in which one of a benchmark of the run stands word for word are left
out, and no path, address or name of this machine is written. transformers loads RUN/published/solver, datasets
RUN/published/questions. A token is read from HF_TOKEN or from `hf auth login`.

Exit codes: 0 written (and pushed); 1 stopped by the user; 2 a wrong path or name, a run that is not finished, no token,
a repository that exists, or a hub that refuses.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from experiments import rundir
from experiments.command_line import DONE, command_parser, exit_code, say
from experiments.export import DTYPES, export
from experiments.parts import made
from experiments.publishing import hub
from experiments.publishing.cards import RECIPE, Publication, data_card, model_card
from experiments.publishing.lineage import UNKNOWN, Base, made_of, read_base
from experiments.publishing.privacy import forget_origin, public_recipe, require_nothing_of_here
from experiments.publishing.question_set import question_set
from experiments.recipe import modern
from experiments.reporting.data import Run, read_run
from experiments.resolvers import register_resolvers
from experiments.terminal import quiet_libraries
from rzero.durable import new_directory
from rzero.policy import load_policy
from rzero.roles import Role
from rzero.runs.ledger import Ledger
from rzero.runs.weights import Weights


def readable(path: Path, iteration: int | None) -> tuple[Run, int]:
    """Returns a finished run and the iteration of it that is published.

    Raises ValueError when it is not finished, has no such iteration, or a file of it is not what was written.
    """
    run = read_run(path)
    if not rundir.finished(path):
        raise ValueError(f"{path} is not finished; go on with it first: python -m experiments.run resume={path}")
    last = run.trained[-1].number if run.trained else 0
    until = last if iteration is None else iteration
    if not 1 <= until <= last:
        raise ValueError(f"{path} has iterations 1 to {last}, not {until}")
    ledger = Ledger.open(run.directory.state)
    ledger.forget_damaged(path)
    if ledger.notes:
        raise ValueError(f"{path} is damaged: {ledger.notes[0]} when it is resumed")
    return run, until


def write(run: Run, *, base: Base, until: int, names: dict[str, str], output: Path, dtype: str | None,
          data_dir: Path | None, progress: Progress) -> None:  # fmt: skip
    """Writes a folder for each role that was trained and for the questions into `output`, all of them or none.

    Raises ValueError when neither role was trained, or a path of this place would be told.
    """
    config = modern(run.config)
    weights = Weights(
        base=str(config.policy.path_or_id), make=load_policy, directory=run.directory, roles=made(config, "roles")
    )
    trained: dict[Role, Path] = {role: found for role in get_args(Role) if (found := weights.trained(role, until))}
    if not trained:
        raise ValueError(f"{run.path}: neither role was trained; both have the weights of the base model")
    sizes = {role: max(1, _size(folder)) for role, folder in trained.items()}
    task = progress.add_task("questions", total=sum(sizes.values()))
    of = Publication(
        run=run,
        base=base,
        until=until,
        made_of=made_of(weights, until=until),
        names={kind: name for kind, name in names.items() if kind == "questions" or kind in trained},
    )
    recipe = OmegaConf.to_yaml(OmegaConf.create(public_recipe(run.config)))
    questions = question_set(run, until=until, data_dir=data_dir)
    with new_directory(output) as folder:
        (folder / "questions").mkdir()
        questions.write(folder / "questions")
        data_card(questions, of).save(folder / "questions" / "README.md")
        (folder / "questions" / RECIPE).write_text(recipe, encoding="utf-8")
        for role in trained:
            progress.update(task, description=f"weights of the {role}")
            own = dtype or (DTYPES[0] if config.policy.lora else config.policy.dtype)
            export(run.path, role=role, iteration=until, dtype=own, output=folder / role)
            forget_origin(folder / role)
            model_card(role, of).save(folder / role / "README.md")
            (folder / role / RECIPE).write_text(recipe, encoding="utf-8")
            for file in of.base.licence.files:
                shutil.copyfile(file, folder / role / file.name)
            require_nothing_of_here(folder / role, run=run.path)
            progress.advance(task, sizes[role])
    progress.remove_task(task)


def push(output: Path, names: dict[str, str], *, private: bool, update: bool, progress: Progress) -> list[str]:
    """Sends every folder in `output`; returns the addresses. Raises OSError naming the folder, which stays."""
    there = {kind: name for kind, name in names.items() if (output / kind).is_dir()}
    task = progress.add_task("", total=sum(_size(output / kind) for kind in there))
    addresses = []
    for kind, name in there.items():
        progress.update(task, description=f"to {name}")
        try:
            addresses.append(
                hub.push(output / kind, name, private=private, update=update, sent=lambda n: progress.advance(task, n))
            )
        except OSError as error:
            raise OSError(f"{error}; what is to be sent lies in {output}, and --update goes on") from error
    return addresses


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def require_place(output: Path) -> None:
    """Raises FileExistsError unless the folder is new, empty, or what this command left there."""
    if output.exists() and (not output.is_dir() or {path.name for path in output.iterdir()} - set(hub.KINDS)):
        raise FileExistsError(f"{output} holds other things; choose another --output")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("experiments.publish", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="directory of a finished run")
    parser.add_argument("--push", metavar="OWNER/NAME", help="send them to the hub under this name and -<kind>")
    parser.add_argument("--update", action="store_true", help="add a commit to repositories that exist already")
    parser.add_argument("--private", action="store_true", help="make the repositories private")
    parser.add_argument("--iteration", type=int, help="after which iteration; default: the last")
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights; default: the run's, with adapters float32")
    parser.add_argument("--data-dir", type=Path, metavar="FOLDER", help="where the run's benchmarks lie, without a hub")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: RUN/published")
    options = parser.parse_args(arguments)
    if (options.update or options.private) and not options.push:
        parser.error("--update and --private go with --push OWNER/NAME")

    def work() -> int:
        quiet_libraries()
        run, until = readable(options.run, options.iteration)
        register_resolvers(options.run)
        base = read_base(modern(run.config))
        names = hub.repositories(options.push) if options.push else {}
        output = options.output or options.run / "published"
        require_place(output)
        offline: hub.Unreachable | None = None
        if names:
            hub.require_token()
            try:
                if not options.update:
                    hub.require_new(names)
            except hub.Unreachable as error:
                offline = error
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            write(
                run, base=base, until=until, names=names, output=output, dtype=options.dtype, data_dir=options.data_dir,
                progress=progress,
            )  # fmt: skip
            if base.licence.id == UNKNOWN:
                say("the licence of the base model is not known here; the cards say so")
            say(f"written: {output}")
            if offline:
                raise offline
            sent = push(output, names, private=options.private, update=options.update, progress=progress)
        for address in sent:
            say(f"pushed: {address}")
        return DONE

    return exit_code(
        work, stopped="stopped by the user; the same command does it again (with --update where repositories exist)"
    )


if __name__ == "__main__":
    sys.exit(main())
