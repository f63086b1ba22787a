"""A pretend CUDA device: tensors with real values in host memory that say `cuda:0` and refuse what CUDA refuses.

    with pretend_cuda():
        model = on_cuda(model)               # what model.to("cuda") does
        model(ids.to("cuda"))                # computes; mixing in a tensor of the CPU raises RuntimeError

FakeTensors would need no values but could not run code that reads them (sampling, masks, metrics); here everything runs
and gives the numbers of the CPU, so a test can compare them. What is checked is where tensors live. Kernels, streams,
memory and speed are not pretended.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda:0")

_TRANSFERS = {"aten.copy_.default", "aten._to_copy.default"}
_INDEXED_READS = {"aten.index.Tensor", "aten._unsafe_index.Tensor"}
_INDEXED_WRITES = {"aten.index_put_.default", "aten.index_put.default", "aten._index_put_impl_.default"}
_HOST_ONLY = ("numpy", "__array__")


class CudaTensor(Tensor):
    """Wraps a tensor of the CPU (`_host`) and says that it is on CUDA."""

    _host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor, requires_grad: bool = False) -> CudaTensor:
        host = host.detach()
        made = Tensor._make_wrapper_subclass(
            cls, host.size(), strides=host.stride(), storage_offset=host.storage_offset(), dtype=host.dtype,
            layout=host.layout, device="cpu", requires_grad=requires_grad,
        )  # fmt: skip
        made._host = host
        return made

    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    def __repr__(self, **_: Any) -> str:
        return f"CudaTensor({self._host!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> CudaTensor:
        if id(self) not in memo:
            copied = CudaTensor(self._host.clone()).requires_grad_(self.requires_grad)
            copied._is_param = getattr(self, "_is_param", False)
            memo[id(self)] = copied
        return memo[id(self)]  # type: ignore[no-any-return]

    def tolist(self) -> Any:
        return self._host.tolist()

    def data_ptr(self) -> int:
        return self._host.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self._host.untyped_storage()  # what tells tied tensors from others

    def storage(self) -> torch.TypedStorage:
        return torch.TypedStorage(wrap_storage=self.untyped_storage(), dtype=self.dtype, _internal=True)

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = str(func)
        _refuse_mixtures(name, args, kwargs)
        target = kwargs.pop("device", None)
        out = func(*tree_map(_host_of, args), **tree_map(_host_of, kwargs))
        if name == "aten._local_scalar_dense.default":
            return out
        if name == "aten._to_copy.default" and target is not None and torch.device(target).type == "cpu":
            return out
        if func._schema.is_mutable:
            first = func._schema.arguments[0].alias_info
            if "out" in kwargs:
                return kwargs["out"]
            if first is not None and first.is_write and isinstance(out, Tensor):
                return args[0]
        return tree_map(lambda value: CudaTensor(value) if isinstance(value, Tensor) else value, out)


def _host_of(value: Any) -> Any:
    return value._host if isinstance(value, CudaTensor) else value


def _refuse_mixtures(name: str, args: Any, kwargs: Any) -> None:
    """RuntimeError for an operation that CUDA would refuse. Tensors without dimensions count as numbers, as there."""
    if name in _TRANSFERS:
        return
    leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if name in _INDEXED_READS | _INDEXED_WRITES:  # a CUDA tensor may be indexed by the CPU's, not the other way round
        written = [args[2]] if name in _INDEXED_WRITES else []
        leaves = [args[0], *written]
        if not isinstance(args[0], CudaTensor):
            leaves += [leaf for leaf in tree_leaves(args[1]) if isinstance(leaf, Tensor)]
    cuda = [leaf for leaf in leaves if isinstance(leaf, CudaTensor)]
    host = [leaf for leaf in leaves if not isinstance(leaf, CudaTensor) and leaf.dim() > 0]
    into_host = bool(cuda) and name.split(".")[1].endswith("_") and not isinstance(args[0], CudaTensor)
    if (cuda and host) or into_host:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, found cuda:0 and cpu")


class _Up(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, host: Tensor) -> Tensor:
        return CudaTensor(host.detach().clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return _host_of(gradient)  # type: ignore[no-any-return]


class _Down(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cuda: CudaTensor) -> Tensor:
        return cuda._host.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return CudaTensor(gradient)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    tracked = tensor.requires_grad and torch.is_grad_enabled()
    if device.type == "cuda":
        if isinstance(tensor, CudaTensor):
            return tensor
        return _Up.apply(tensor) if tracked else CudaTensor(tensor.detach().clone())  # type: ignore[no-any-return]
    if not isinstance(tensor, CudaTensor):
        return tensor
    return _Down.apply(tensor) if tracked else tensor._host.clone()  # type: ignore[no-any-return]


_FACTORIES = {
    torch.zeros, torch.ones, torch.empty, torch.full, torch.arange, torch.tensor, torch.as_tensor, torch.rand,
    torch.randn, torch.eye, torch.linspace, torch.zeros_like, torch.ones_like, torch.empty_like, torch.full_like,
    Tensor.new_zeros, Tensor.new_ones, Tensor.new_empty, Tensor.new_full, Tensor.new_tensor,
}  # fmt: skip


class _Mode(TorchFunctionMode):
    """Carries out what would need a real device: making tensors on it and moving them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _FACTORIES and kwargs.get("device") is not None:
            device = torch.device(kwargs.pop("device"))
            made = func(*tree_map(_host_of, args), **tree_map(_host_of, kwargs))
            return CudaTensor(made) if device.type == "cuda" else made
        if func is Tensor.to:
            return self._to(*args, **kwargs)
        if func is Tensor.cuda:
            return _moved(args[0], CUDA)
        if func is Tensor.cpu:
            return _moved(args[0], torch.device("cpu"))
        if getattr(func, "__name__", "") == "_has_compatible_shallow_copy_type":
            return False  # so that nn.Module replaces parameters instead of swapping their storage
        return func(*args, **kwargs)

    def _to(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        device, rest = kwargs.pop("device", None), []
        for argument in args:
            if isinstance(argument, Tensor):
                device, kwargs["dtype"] = argument.device, argument.dtype
            elif isinstance(argument, torch.dtype):
                rest.append(argument)
            elif isinstance(argument, str | torch.device | int) and not isinstance(argument, bool):
                device = argument  # what is left are None, non_blocking and copy
        if rest or kwargs:
            tensor = Tensor.to(tensor, *rest, **kwargs)
        return tensor if device is None else _moved(tensor, torch.device(device))


@contextmanager
def pretend_cuda() -> Iterator[None]:
    """`device="cuda"` works in the context. `torch.cuda.is_available()` still tells the truth."""
    with _Mode():
        yield


def on_cuda(model: nn.Module) -> Any:
    """The model with parameters and buffers on the pretend device, in place; tied parameters stay tied."""
    moved: dict[int, Tensor] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in moved:
                    copy = CudaTensor(parameter.detach().clone()).requires_grad_(parameter.requires_grad)
                    copy._is_param = True  # type: ignore[attr-defined]  # what isinstance(..., nn.Parameter) asks
                    moved[id(parameter)] = copy
                module._parameters[name] = moved[id(parameter)]  # type: ignore[assignment]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = CudaTensor(buffer.detach().clone())
    return model
