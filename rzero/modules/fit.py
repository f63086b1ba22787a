"""One phase of training through Lightning: the order of the questions, and a Trainer that does nothing unasked."""

from __future__ import annotations

import random
import signal
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import lightning.pytorch as pl
from torch.utils.data import DataLoader, Dataset

from rzero.modules.base import Batch, GRPOModule
from rzero.repairs import switch_off_dropout
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


class _Steps(Dataset[int]):
    """The numbers of the steps from `first` up to `end`."""

    def __init__(self, first: int, end: int) -> None:
        self._steps = range(first, end)

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, index: int) -> int:
        return self._steps[index]


class AfterStep(pl.Callback):
    """Calls a function after every rollout and its update."""

    def __init__(self, after_step: Callable[[], None]) -> None:
        self.after_step = after_step
        self.on_terminate = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning's own handler starts a broadcast in the middle of whatever the ranks are doing; like ours, it is set
        # in the main thread only
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.on_terminate)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object, **__: object) -> None:
        self.after_step()


def fit(
    module: GRPOModule[Batch],
    *,
    make_trainer: Callable[..., pl.Trainer],
    after_step: Callable[[Mapping[str, float]], None],
    directory: Path,
) -> None:
    """Train `module` through all its batches after `rollouts_done`, without dropout.

    Raises KeyboardInterrupt, or what a signal handler raised in its place, when the user asked to stop.
    """
    report = AfterStep(lambda: after_step(module.step_metrics))
    trainer = make_trainer(callbacks=[report], default_root_dir=str(directory))
    # Lightning sees numbers only: it rebuilds the collections it is given, and refuses frozen records
    loader = DataLoader(_Steps(module.rollouts_done, len(module.batches)), batch_size=None, num_workers=0)
    module.model.train()  # gradient checkpointing works in this mode only
    switch_off_dropout(module.model)
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
