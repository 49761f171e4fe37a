"""CUDA graphs: the hundreds of small launches of an inference recorded once and replayed as one.

Decoding one token at a time, a GPU waits for the host most of the time. A graph repeats fixed work on fixed addresses,
so it is recorded for each shape of the inputs and is only replayed while every weight still lies where it lay
(:class:`~vlaforget_ros.policy.merged.FixedSlots` sees to that) and no module has a hook, which a replay would not call.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# One for each length of prompt; beyond that the least recently used goes.
_KEPT = 8
_WARM_UPS = 3


@dataclass(frozen=True)
class _Recorded:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    output: Tensor

    def replay(self, inputs: tuple[Tensor, ...]) -> Tensor:
        for place, tensor in zip(self.inputs, inputs, strict=True):
            place.copy_(tensor)
        self.graph.replay()
        return self.output.clone()


class Graphs:
    """Calls a function of tensors, from its second call with the same shapes on by replaying a graph.

    Args:
        model: whose weights the function uses.
        function: never looks at a value on the host, and gives a tensor.

    On a device without CUDA graphs the function is simply called.
    """

    def __init__(self, model: nn.Module, function: Callable[..., Tensor]) -> None:
        self._model, self._function = model, function
        self._recorded: OrderedDict[Hashable, _Recorded] = OrderedDict()

    def __call__(self, *inputs: Tensor) -> Tensor:
        if inputs[0].device.type != "cuda" or has_hooks(self._model):
            return self._function(*inputs)
        key = (addresses(self._model), *((tensor.shape, tensor.dtype) for tensor in inputs))
        recorded = self._recorded.pop(key, None) or self._record(inputs)
        self._recorded[key] = recorded
        if len(self._recorded) > _KEPT:
            self._recorded.popitem(last=False)
        return recorded.replay(inputs)

    def _record(self, inputs: tuple[Tensor, ...]) -> _Recorded:
        fixed = tuple(tensor.clone() for tensor in inputs)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self._function(*fixed)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # An adapter that is being staged meanwhile allocates in its own thread: that is no fault of the recording.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            output = self._function(*fixed)
        return _Recorded(graph, fixed, output)


def has_hooks(model: nn.Module) -> bool:
    """Whether any module would call a forward hook."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def addresses(model: nn.Module) -> int:
    """A number that changes whenever a weight is somewhere else."""
    return hash(tuple(parameter.data_ptr() for parameter in model.parameters()))
