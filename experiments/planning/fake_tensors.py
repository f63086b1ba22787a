"""Tensors without storage whose bytes are counted: what a device would hold, moment by moment.

Floating-point tensors are fake (torch's FakeTensorMode): shapes, dtypes and lifetimes are real, values are not. Whole
numbers and masks are real, because they decide about shapes; they are small and not counted. The CPU stands in for the
device. A fake number that is read as a Python number is 1, a fake truth value is False.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ATEN = torch.ops.aten
_FACTORIES = {
    _ATEN.empty.memory_format, _ATEN.empty_strided.default, _ATEN.zeros.default, _ATEN.ones.default, _ATEN.full.default,
}  # fmt: skip
_FLOATING = {None, torch.float64, torch.float32, torch.bfloat16, torch.float16}
_HERE = {None, torch.device("cpu")}
_FAKE = torch._C._TorchDispatchModeKey.FAKE


class ByteCounter(TorchDispatchMode):
    """Counts the bytes of fake storages, also of those that FSDP2 empties and fills again.

    now: bytes that are held. peaks: the largest `now` of each moment; moments are what `at` names.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peaks: dict[str, int] = {}
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._moments: tuple[str, ...] = ()
        self._sizes: dict[int, int] = {}

    def at(self, *moments: str) -> None:
        """From here on peaks belong to these moments."""
        self._moments = moments
        self._note_peak()

    def count(self, storage: torch.UntypedStorage) -> None:
        """Takes a storage, or its new size, into account until it is gone."""
        key, size = storage._cdata, storage.nbytes()
        if key not in self._sizes:
            weakref.finalize(storage, self._forget, key)
        self.now += size - self._sizes.get(key, 0)
        self._sizes[key] = size
        self._note_peak()

    def counts(self, storage: torch.UntypedStorage) -> bool:
        """Returns whether it is one of the storages that are counted."""
        return storage._cdata in self._sizes

    def _note_peak(self) -> None:
        for moment in self._moments:
            self.peaks[moment] = max(self.peaks.get(moment, 0), self.now)

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(kind not in (Tensor, nn.Parameter) and not issubclass(kind, FakeTensor) for kind in types):
            return NotImplemented  # a DTensor: the tensors in it come by next
        if torch._C._get_dispatch_mode(_FAKE) is not None:
            return func(*args, **kwargs)  # DTensor asks a fake mode of its own for shapes
        faked = any(isinstance(leaf, FakeTensor) for leaf in tree_leaves((args, kwargs)))
        if faked and func is _ATEN._local_scalar_dense.default:
            return False if args[0].dtype == torch.bool else 1.0
        if faked and func is _ATEN.index.Tensor:
            args = (args[0], _positions(args[1]))
        if func in _FACTORIES and kwargs.get("dtype") in _FLOATING and kwargs.get("device") in _HERE:
            with self._fake:
                made = func(*args, **kwargs)
        else:
            made = func(*args, **kwargs)
        for leaf in tree_leaves(made):
            if isinstance(leaf, FakeTensor):
                self.count(leaf.untyped_storage())
        return made


def _positions(indices: Any) -> list[Any]:
    """Masks as the positions that they name: a fake tensor cannot know how many those are."""
    found: list[Any] = []
    for index in indices:
        is_mask = isinstance(index, Tensor) and index.dtype == torch.bool and not isinstance(index, FakeTensor)
        found += index.nonzero(as_tuple=True) if is_mask else [index]
    return found


@contextmanager
def fake_device() -> Iterator[ByteCounter]:
    """Floating-point tensors that are made in the context are fake and counted."""
    counter, resize = ByteCounter(), torch.UntypedStorage.resize_

    def counted(storage: Any, size: int) -> Any:
        result = resize(storage, size)
        if counter.counts(storage):
            counter.count(storage)
        return result

    torch.UntypedStorage.resize_ = counted  # type: ignore[method-assign, assignment]  # no operation that a mode would see
    try:
        with counter:
            yield counter
    finally:
        torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign]


def put_on_fake_device(model: nn.Module) -> None:
    """Replaces the tensors of a model that was made on torch's device `meta`; tied ones stay tied. In place."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in made:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype)
                made[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
            module._parameters[name] = made[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
