"""A device that this machine does not have: its tensors compute on the CPU, but mix with no others, as a GPU's do.

What runs on it and gives the CPU's figures puts every tensor where it belongs, draws random numbers where CUDA would
let it, and where results are to be the same each time calls nothing that CUDA would then refuse. It says nothing of
kernels, streams, graphs or memory of a GPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from vlaforget_ros.policy.policy import VlaPolicy

# A type of device that PyTorch knows and that has no kernels here; its backward passes run in the caller's thread.
ELSEWHERE = "lazy"

_aten: Any = torch.ops.aten
# A tensor of a GPU may be indexed by one of the host, not the other way round.
_INDEXED = {
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
}
# Refused on CUDA where algorithms are to be deterministic (documentation of torch.use_deterministic_algorithms).
_ANY_ORDER = {
    "aten::median.dim",
    "aten::nll_loss2d_forward",
    "aten::histc",
    "aten::put_",
    "aten::upsample_bilinear2d_backward",
    "aten::upsample_bicubic2d_backward",
    "aten::grid_sampler_2d_backward",
    "aten::_adaptive_avg_pool2d_backward",
    "aten::reflection_pad2d_backward",
}


class _Elsewhere(Tensor):
    """A tensor of that device; ``inner`` is the same on the CPU."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> _Elsewhere:
        self: _Elsewhere = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(ELSEWHERE, 0),
        )
        self.inner = inner
        return self

    def __repr__(self, **_: Any) -> str:
        return f"elsewhere({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, _Elsewhere) else value


def _computed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, _Elsewhere)]
    device = kwargs.get("device")
    goes_there = bool(there) if device is None else torch.device(device).type == ELSEWHERE
    if func is _aten._to_copy.default:
        kept = {name: value for name, value in kwargs.items() if name not in ("device", "non_blocking")}
        copy = func(_inner(args[0]), **kept)
        return _Elsewhere(copy) if goes_there else copy
    if func is _aten.copy_.default:
        func(_inner(args[0]), _inner(args[1]), *args[2:])
        return args[0]
    if there:
        _require_one_device(func, args, tensors)
    if goes_there:
        _require_cuda_would(func, tensors, kwargs)
    if device is not None:
        kwargs = {**kwargs, "device": "cpu"}
    found = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    if not goes_there:
        return found
    # What an operation in place gives back is the tensor that it was given.
    own = {id(tensor.inner): tensor for tensor in there}

    def placed(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return own[id(value)] if id(value) in own else _Elsewhere(value)

    return tree_map(placed, found)


def _require_one_device(func: Any, args: tuple[Any, ...], tensors: list[Tensor]) -> None:
    """As CUDA: numbers (no dimensions) of the host go with anything, indices of the host with an indexed tensor."""
    if func in _INDEXED:
        tensors = [args[0], *args[2:3]]
    if any(not isinstance(tensor, _Elsewhere) and tensor.dim() > 0 for tensor in tensors):
        places = ", ".join(f"{tuple(tensor.shape)} on {tensor.device}" for tensor in tensors)
        raise RuntimeError(f"Expected all tensors to be on the same device: {func} of {places}")


def _require_cuda_would(func: Any, tensors: list[Tensor], kwargs: dict[str, Any]) -> None:
    if kwargs.get("generator") is not None:
        raise RuntimeError(f"Expected a generator of the device: {func}")
    sums = func is _aten.cumsum.default and tensors[0].is_floating_point()
    if torch.are_deterministic_algorithms_enabled() and (sums or func.name() in _ANY_ORDER):
        raise RuntimeError(f"{func} does not have a deterministic implementation")


class _Dispatch(TorchDispatchMode):
    """Makes new tensors there, where they are asked for."""

    def __torch_dispatch__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class _Function(TorchFunctionMode):
    """What PyTorch does for a device before it dispatches: tensors of lists, and lists as indices."""

    def __torch_function__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if func in (torch.tensor, torch.as_tensor) and device is not None:
            return func(*args, **{**kwargs, "device": "cpu"}).to(device)
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            index = args[1]
            index = tuple(map(_as_index, index)) if isinstance(index, tuple) else _as_index(index)
            args = (args[0], index, *args[2:])
        if func == Tensor.data.__set__ and isinstance(args[0], _Elsewhere):
            args[0].inner = args[1].inner
        return func(*args, **kwargs)


def _as_index(value: Any) -> Any:
    return torch.as_tensor(value) if isinstance(value, (list, np.ndarray)) else value


@contextlib.contextmanager
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Checkpoints are loaded onto that device."""
    load, autocast = VlaPolicy.load, torch.autocast

    def loaded(*arguments: Any, **more: Any) -> VlaPolicy:
        policy = load(*arguments, **more)
        policy.model.to(ELSEWHERE)
        return policy

    def cast(device: str, *arguments: Any, enabled: bool = True) -> Any:
        if device == ELSEWHERE and not enabled:
            return contextlib.nullcontext()
        return autocast(device, *arguments, enabled=enabled)

    with monkeypatch.context() as patch, _Dispatch(), _Function():
        patch.setattr(VlaPolicy, "load", loaded)
        patch.setattr(torch, "autocast", cast)
        inference = torch.inference_mode
        patch.setattr(inference, "__enter__", lambda self: _entered(self))
        patch.setattr(inference, "__exit__", lambda self, *_: self._gradients.__exit__(None, None, None))
        yield


def _entered(mode: Any) -> None:
    """Tensors of inference mode cannot be wrapped: without gradients comes closest."""
    mode._gradients = torch.no_grad()
    mode._gradients.__enter__()
