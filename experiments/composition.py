"""The composition root: the only reader of the configuration. Shared parts are built once, here, and handed on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from experiments import nodes
from experiments.model_package import ModelPackage
from experiments.parts import check_keys, made, naming
from experiments.provenance import public_config, start_day
from experiments.resolvers import register_resolvers
from rzero.adapters import holds_adapters
from rzero.durable import remove_leftovers
from rzero.policy import Policy, load_policy, require_policy
from rzero.policy_check import CheckedLoader
from rzero.polls import Polling
from rzero.prices import PricedEmbedder, Prices
from rzero.processes.cpu import set_matmul_precision
from rzero.processes.launch import RankConfig, launch
from rzero.processes.ranks import Ranks, alone
from rzero.runs.bank import JsonlBank
from rzero.runs.directory import RunDirectory
from rzero.runs.health import GraderHealth
from rzero.runs.ledger import Ledger
from rzero.runs.progress import ConsoleNarrator, Silent
from rzero.runs.stages import Stages
from rzero.runs.weights import Weights
from rzero.selfplay import ChallengerPhase, CurriculumPhase, SelfPlay, SolverPhase
from rzero.tracking import Fanout, JsonlTracker, NullTracker
from rzero.types import Json

Join: TypeAlias = Callable[[], AbstractContextManager[Ranks]]
"""Enters a process into the group of a run, and says which one it is."""

UNSEEN = "note: with signals=none the collapse alarm has nothing to look at; signals=all shows it questions and labels"


def unseen(selfplay: SelfPlay) -> str | None:
    """Returns what the user of a run is told whose alarm sees nothing; None where it does, or where there is none."""
    return UNSEEN if selfplay.signals is None and selfplay.stages.collapse.alarm else None


def build(cfg: DictConfig, directory: Path, *, join: Join | None = None, first: bool = True) -> SelfPlay:
    """A run of `cfg` in `directory`, with everything that an earlier attempt completed there.

    With `trainer.devices` above 1 the run starts that many processes, unless they are there already: `join` is given
    then. All but the `first` take part without writing.

    Raises ValueError or FileNotFoundError with one clear message when a value or a path is wrong.
    """
    register_resolvers(directory)
    check_keys(cfg)
    set_matmul_precision(cfg.matmul_precision)
    ledger = _ledger(cfg, directory, first=first)
    grader = made(cfg, "grader")
    prompts = made(cfg, "prompts")
    bank = JsonlBank(RunDirectory(directory))
    load = policy_loader(cfg.policy)
    prices = Prices()
    embedder = PricedEmbedder(
        made(cfg, "embedder", load=functools.partial(load, str(cfg.policy.path_or_id))), prices=prices
    )
    parts = {"grader": grader, "bank": bank, "embedder": embedder}
    challenger, solver = _challenger(cfg, parts), _solver(cfg, parts)
    suite = instantiate(cfg.benchmarks, prompts=prompts, grader=grader, vote=_paper_vote(grader))()
    curriculum, launch = _curriculum(cfg, parts), join or _launch(cfg, directory)
    require_dropout_is_known(cfg, challenger, curriculum)
    collapse, signals = made(cfg, "collapse"), made(cfg, "signals", **parts)
    roles = made(cfg, "roles")
    health = GraderHealth(grader, alarm_share=cfg.grader_alarm)
    # last, because it opens files: whatever is wrong with the configuration has been said by now
    record, tracker = _record(cfg, directory, ledger) if first else (NullTracker(), NullTracker())
    narrator = ConsoleNarrator(phases=1 + 4 * cfg.iterations, seconds=cfg.log_seconds) if first else Silent()
    for note in ledger.notes if first else ():
        narrator.say(f"warning: {note}")
    day = functools.partial(start_day, directory)
    checked = CheckedLoader(load=load, prompts=prompts, day=day, say=narrator.say, looked=not first)
    weights = Weights(base=str(cfg.policy.path_or_id), make=checked, directory=RunDirectory(directory), roles=roles)
    stages = Stages(
        directory=RunDirectory(directory),
        ledger=ledger,
        record=record,
        tracker=tracker,
        narrator=narrator,
        health=health,
        collapse=collapse,
        checkpoint_every=cfg.checkpoint_every,
        prices=prices,
    )
    return SelfPlay(
        seed=cfg.seed,
        iterations=cfg.iterations,
        make_engine=functools.partial(instantiate, cfg.engine),
        make_trainer=lambda **more: instantiate(cfg.trainer)(**more),  # each phase needs a strategy of its own
        prompts=prompts,
        challenger=challenger,
        curriculum=curriculum,
        solver=solver,
        suite=suite,
        audit=instantiate(cfg.audit)(grader=grader),
        signals=signals,
        bank=bank,
        weights=weights,
        stages=stages,
        launch=launch,
    )


def require_dropout_is_known(cfg: DictConfig, challenger: ChallengerPhase, curriculum: CurriculumPhase) -> None:
    """Raises ValueError where tokens are to be dropped by an engine that cannot, before anything is drawn."""
    wanted = {
        "challenger.settings": challenger.settings.rollout_sampling(seed=0).vocabulary_dropout,
        "curriculum.sampling_questions": curriculum.sampling.get("vocabulary_dropout"),
    }
    if not getattr(get_object(cfg.engine._target_), "drops_vocabulary", False):
        for key, share in wanted.items():
            if share:
                raise ValueError(f"{key}: vocabulary_dropout={share} needs engine=embedded, got {cfg.engine._target_}")


def _ledger(cfg: DictConfig, directory: Path, *, first: bool) -> Ledger:
    """Returns what is done and still as it was written. Only the first process may clear away what is not."""
    ledger = Ledger.open(directory / "state.json")
    if first:
        remove_leftovers(directory)
        ledger.recover(directory)
        ledger.config = ledger.config or OmegaConf.to_yaml(cfg)
    return ledger


def _record(cfg: DictConfig, directory: Path, ledger: Ledger) -> tuple[JsonlTracker, Fanout]:
    """The run's own metrics file, rewound to the last complete stage, and everything that metrics are sent to."""
    record = JsonlTracker(directory / "metrics.jsonl")
    record.rewind(ledger.last.metrics.size)
    tracker = made(cfg, "tracker", config=public_config(cfg), committed_step=ledger.step)
    return record, Fanout([record, tracker])


def _launch(cfg: DictConfig, directory: Path) -> Join:
    nodes.check(cfg, None)
    if cfg.trainer.devices == 1:
        return alone
    started = functools.partial(worker, OmegaConf.to_yaml(cfg), str(directory))
    return functools.partial(launch, size=cfg.trainer.devices, cuda=nodes.on_gpu(cfg), worker=started)


def worker(config: str, directory: str, rank_config: RankConfig) -> None:
    """Takes part in a run as another process than the first: the same, silently and without writing."""
    from experiments.terminal import quiet_libraries
    from rzero.processes.cpu import set_up_cpu

    quiet_libraries()
    cfg = OmegaConf.create(config)
    assert isinstance(cfg, DictConfig)
    set_up_cpu(threads=cfg.threads, kernels=cfg.cpu_kernels)
    build(cfg, Path(directory), join=rank_config.join, first=False).run()


def require_weights(cfg: DictConfig) -> None:
    """Raises FileNotFoundError or ValueError where a policy's path is wrong, or the package that is to provide it."""
    if not cfg.get("package") or str(cfg.path_or_id) != str(cfg.package.directory):
        require_policy(str(cfg.path_or_id))
    else:
        instantiate(cfg.package).require()


NOT_FOR_LOADING = ("_target_", "path_or_id", "architecture", "package")
"""Keys of a policy that say which one it is and where it comes from; its shape is for `experiments.plan`."""


def policy_loader(cfg: DictConfig) -> Callable[..., Policy]:
    """`load(path)` for the configured dtype, attention and adapters; a policy's `package` is unpacked when needed.

    `load(base, adapter=directory)`: with the adapters in that directory.
    """
    options: Json = {key: value for key, value in cfg.items() if key not in NOT_FOR_LOADING}  # type: ignore[misc]
    if not cfg.get("package"):
        return functools.partial(load_policy, **options)
    package: ModelPackage = instantiate(cfg.package)

    def load(path: str, **more: Any) -> Policy:
        if path == package.directory or holds_adapters(path):  # those lie over the package's weights
            package.provide()
        return load_policy(path, **{**options, **more})

    return load


def _paper_vote(grader: Any) -> Any:
    from rzero.voting import PaperVote

    return PaperVote(grader)


def _plain(node: DictConfig) -> Any:
    return OmegaConf.to_container(node, resolve=True)


def _challenger(cfg: DictConfig, parts: Json) -> ChallengerPhase:
    polling = cfg.challenger.polling
    return ChallengerPhase(
        **_learning(cfg, "challenger", parts),
        parse=made(cfg, "challenger.parse"),
        polling=Polling(
            votes=polling.votes,
            sampling=_plain(polling.sampling),
            rule=made(cfg, "challenger.polling.rule", **parts).vote_many,
        ),
    )


def _solver(cfg: DictConfig, parts: Json) -> SolverPhase:
    return SolverPhase(
        **_learning(cfg, "solver", parts),
        label=made(cfg, "solver.label"),
        acceptance=made(cfg, "solver.acceptance", **parts),
    )


def _learning(cfg: DictConfig, role: str, parts: Json) -> Json:
    """Builds what both roles have, once and here, so that none of it can fail when the first phase begins.

    parts: the shared objects that a part may ask for by name.
    """
    with naming(f"{role}.settings"):
        settings = instantiate(cfg[role].settings, _convert_="all")
    loss = made(cfg, f"{role}.loss")
    with naming(f"{role}.loss"):
        settings.check(loss)
    optimizer = instantiate(cfg[role].optimizer)
    with naming(f"{role}.optimizer"):
        optimizer([torch.nn.Parameter(torch.zeros(1))])
    reward = functools.partial(made, cfg, f"{role}.reward", **parts)
    reward(seed=0)
    return {
        "settings": settings,
        "loss": loss,
        "optimizer": optimizer,
        "reward": lambda seed: reward(seed=seed),
    }


def _curriculum(cfg: DictConfig, parts: Json) -> CurriculumPhase:
    phase = cfg.curriculum
    return CurriculumPhase(
        candidates=phase.candidates,
        sampling=_plain(phase.sampling_questions),
        parse=made(cfg, "curriculum.parse"),
        polling=Polling(
            votes=phase.votes,
            sampling=_plain(phase.sampling_answers),
            rule=made(cfg, "curriculum.vote", **parts).vote_many,
        ),
        rule=made(cfg, "curriculum.rule", **parts),
        anchors=made(cfg, "curriculum.anchors"),
        rewording=made(cfg, "curriculum.rewording", **parts),
        substitution=made(cfg, "curriculum.substitution", **parts),
    )
