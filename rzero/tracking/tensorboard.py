"""Metrics as TensorBoard scalars: `tensorboard --logdir outputs`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rzero.types import Artifact, LabelledQuestion


class TensorBoardTracker:
    """Mirrors metrics to event files in `directory`. Numbers that are not finite are gaps.

    committed_step: the last step of a complete stage. TensorBoard is told to forget later ones, which a stopped attempt
    wrote and which are about to be repeated. Raises ImportError naming the package when TensorBoard is not installed.
    """

    def __init__(self, *, directory: str | Path, committed_step: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "tracker=tensorboard needs the package tensorboard: pip install tensorboard, or choose another tracker"
            ) from error
        self._writer = SummaryWriter(str(directory), purge_step=committed_step + 1)

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        for name, value in metrics.items():
            if math.isfinite(value):
                self._writer.add_scalar(name, value, global_step=step)
        self._writer.flush()

    def questions(self, labelled: Sequence[LabelledQuestion], *, step: int) -> None: ...

    def artifact(self, made: Artifact) -> None: ...

    def close(self) -> None:
        self._writer.close()
