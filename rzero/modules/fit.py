"""One phase of training through Lightning: the order of the questions, and a Trainer that does nothing unasked."""

from __future__ import annotations

import random
import signal
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch.utils.data import DataLoader

from rzero.modules import GRPOModule
from rzero.types import LabelledQuestion


def question_batches(
    questions: Sequence[LabelledQuestion], *, steps: int, size: int, seed: int
) -> list[list[LabelledQuestion]]:
    """`steps` batches of `size` questions; every question is seen once before any is seen again."""
    rng = random.Random(seed)
    queue: list[LabelledQuestion] = []
    batches = []
    for _ in range(steps):
        while len(queue) < size:
            queue.extend(rng.sample(list(questions), len(questions)))
        batches.append(queue[:size])
        queue = queue[size:]
    return batches


class AfterStep(pl.Callback):
    """Hands the metrics of every rollout to a function."""

    def __init__(self, after_step: Callable[[Mapping[str, float]], None]) -> None:
        self.after_step = after_step
        self.on_terminate = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning's own handler starts a broadcast in the middle of whatever the ranks are doing; like ours, it is set
        # in the main thread only
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.on_terminate)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any, **__: Any) -> None:
        assert isinstance(pl_module, GRPOModule)
        self.after_step(pl_module.step_metrics)


def fit(
    module: GRPOModule,
    *,
    make_trainer: Callable[..., pl.Trainer],
    after_step: Callable[[Mapping[str, float]], None],
    directory: Path,
) -> None:
    """Train `module` through all its batches after `rollouts_done`.

    Raises KeyboardInterrupt, or what a signal handler raised in its place, when the user asked to stop.
    """
    trainer = make_trainer(callbacks=[AfterStep(after_step)], default_root_dir=str(directory))
    # Lightning sees numbers only: it rebuilds the collections it is given, and refuses frozen records
    steps: Any = range(module.rollouts_done, len(module.batches))
    loader: DataLoader[Any] = DataLoader(steps, batch_size=None, num_workers=0)
    module.model.train()  # gradient checkpointing works in this mode only; dropout is the model's own choice
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*`srun` command is available.*")  # on a login node; not asked for
        on_interrupt = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit(module, loader)
        except SystemExit as stop:
            # Lightning turns Ctrl-C into a silent exit and leaves SIGINT ignored; the caller has something to say first
            signal.signal(signal.SIGINT, on_interrupt)
            cause = stop.__context__
            raise (cause if isinstance(cause, KeyboardInterrupt) else KeyboardInterrupt()) from None
