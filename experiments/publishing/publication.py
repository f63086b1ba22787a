"""Writing what is published of a run, and sending it."""

from __future__ import annotations

import shutil
from pathlib import Path

from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from experiments.command_line import say
from experiments.export import DTYPES, export
from experiments.publishing import hub
from experiments.publishing.cards import RECIPE, Publication, data_card, model_card
from experiments.publishing.lineage import UNKNOWN, made_of, read_base
from experiments.publishing.privacy import forget_origin, public_recipe, require_nothing_of_here
from experiments.publishing.question_set import question_set
from experiments.publishing.source import Source, read_source, require_whole, size
from experiments.terminal import quiet_libraries
from rzero.durable import new_directory


def publish(
    run: Path,
    *,
    pushed_as: str | None,
    update: bool,
    private: bool,
    iteration: int | None,
    dtype: str | None,
    data_dir: Path | None,
    output: Path | None,
) -> None:
    """Everything behind the command line of `experiments.publish`, which says what the options are."""
    quiet_libraries()
    source = read_source(run, iteration=iteration)
    names = hub.repositories(pushed_as) if pushed_as else {}
    output = output or run / "published"
    require_place(output)
    offline: hub.Unreachable | None = None
    if names:
        hub.require_token()
        try:
            if not update:
                hub.require_new(names)
        except hub.Unreachable as error:
            offline = error
    of = Publication(
        run=source.run,
        base=read_base(source.config),
        until=source.until,
        made_of=made_of(source.weights, until=source.until),
        names={kind: name for kind, name in names.items() if kind == "questions" or kind in source.trained},
    )
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        write(source, of, output=output, dtype=dtype, data_dir=data_dir, progress=progress)
        if of.base.licence.id == UNKNOWN:
            say("the licence of the base model is not known here; the cards say so")
        say(f"written: {output}")
        if offline:
            raise offline
        sent = push(output, names, private=private, update=update, progress=progress)
    for address in sent:
        say(f"pushed: {address}")


def write(source: Source, of: Publication, *, output: Path, dtype: str | None, data_dir: Path | None,
          progress: Progress) -> None:  # fmt: skip
    """Writes a folder for each role that was trained and for the questions into `output`, all of them or none.

    Raises ValueError when a file of the run is damaged, the benchmarks cannot be read, or a path would be told.
    """
    sizes = {role: size(folder) for role, folder in source.trained.items()}
    task = progress.add_task("checking files", total=2 * sum(sizes.values()))
    require_whole(source, checked=lambda n: progress.advance(task, n))
    progress.update(task, description="questions")
    recipe = OmegaConf.to_yaml(OmegaConf.create(public_recipe(source.run.config)))
    questions = question_set(source.run, until=source.until, data_dir=data_dir)
    with new_directory(output) as folder:
        (folder / "questions").mkdir()
        questions.write(folder / "questions")
        data_card(questions, of).save(folder / "questions" / "README.md")
        (folder / "questions" / RECIPE).write_text(recipe, encoding="utf-8")
        for role in source.trained:
            progress.update(task, description=f"weights of the {role}")
            own = dtype or (DTYPES[0] if source.config.policy.lora else source.config.policy.dtype)
            export(source.run.path, role=role, iteration=source.until, dtype=own, output=folder / role)
            forget_origin(folder / role)
            model_card(role, of).save(folder / role / "README.md")
            (folder / role / RECIPE).write_text(recipe, encoding="utf-8")
            for file in of.base.licence.files:
                shutil.copyfile(file, folder / role / file.name)
            require_nothing_of_here(folder / role, run=source.run.path)
            progress.advance(task, sizes[role])
    progress.remove_task(task)


def push(output: Path, names: dict[str, str], *, private: bool, update: bool, progress: Progress) -> list[str]:
    """Sends every folder in `output`; returns the addresses. Raises OSError naming the folder, which stays."""
    there = {kind: name for kind, name in names.items() if (output / kind).is_dir()}
    task = progress.add_task("", total=sum(size(output / kind) for kind in there))
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


def require_place(output: Path) -> None:
    """Raises FileExistsError unless the folder is new, empty, or what this command left there."""
    if output.exists() and (not output.is_dir() or {path.name for path in output.iterdir()} - set(hub.KINDS)):
        raise FileExistsError(f"{output} holds other things; choose another --output")
