"""The one way to compose a configuration: conf/, overrides, and a user's own folder of options (`--config-dir`).

The folder may hold any group of conf/ (`mine/challenger_reward/peak.yaml`). The modules that its options name lie
beside it (`my_rewards.py` next to `mine/`) or are installed. What conf/ has cannot be replaced from there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments import PROJECT
from experiments.overrides import refuse_old
from experiments.paths import quoted, spelled
from experiments.resolvers import register_resolvers

CONF = PROJECT / "conf"


def compose(
    *overrides: str,
    config: str = "config",
    config_dir: Path | None = None,
    run_directory: Path | None = None,
    groups: Sequence[str] = (),
) -> DictConfig:
    """Return conf/<config>.yaml with `overrides` (`key=value`, `group=option`); names and paths are taken as they are.

    run_directory: what `${run_directory:}` means afterwards; the working directory when it is not given. groups: those
    that `experiments.run` does not take, and this command does. Raises ValueError for an old spelling,
    FileNotFoundError when `config_dir` is no folder, hydra's errors when an override means nothing.
    """
    register_resolvers(run_directory)
    if config == "config":
        refuse_old(overrides, allowed=groups)
    own = [] if config_dir is None else [_searched(importable(config_dir))]
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        return hydra.compose(config, overrides=[*own, *spelled(overrides)])


def _searched(config_dir: Path) -> str:
    """The override that adds a folder to those of conf/config.yaml."""
    return f"hydra.searchpath=[{quoted(f'file://{PROJECT}')},{quoted(f'file://{config_dir}')}]"


def importable(config_dir: Path) -> Path:
    """Make the modules beside a user's folder of options importable, ours first; return the folder's full path.

    Raises FileNotFoundError when there is no such folder.
    """
    folder = config_dir.resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"--config-dir {config_dir}: there is no such folder")
    if str(folder.parent) not in sys.path:
        sys.path.append(str(folder.parent))
    return folder


def own_folder() -> Path | None:
    """Return the folder that --config-dir names for hydra's own application, its modules made importable here as well.

    A job of a multirun may be in another process or on another machine than the command.
    """
    sources = HydraConfig.get().runtime.config_sources
    own = [Path(source.path) for source in sources if source.provider == "command-line"]
    return importable(own[0]) if own else None


def options(group: str, *, config_dir: Path | None = None) -> set[str]:
    """Return the names of a group's options in conf/ and in a user's folder."""
    folders: Sequence[Path] = [CONF, *([config_dir] if config_dir else [])]
    return {path.stem for folder in folders for path in (folder / group).glob("*.yaml")}
