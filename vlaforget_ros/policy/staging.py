"""The way of an adapter's tensors to the model's device, beside the inferences that go on there."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor


class Staging(Protocol):
    """A block in which tensors are brought to a device; when it has ended they are all there."""

    def __enter__(self) -> Staging: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def send(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """A copy on the device; work on it may follow within the block."""
        ...


class PlainStaging:
    """Copies at once. For processors, whose memory needs no way, and for devices that nothing is known about.

    Args:
        device: where the model is.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __enter__(self) -> PlainStaging:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is under way."""

    def send(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        return tensor.detach().to(device=self._device, dtype=dtype, copy=True).contiguous()


class PinnedStaging:
    """For CUDA: through pinned host memory on a stream of its own, so that no inference is waited for or held up.

    From pageable memory the driver copies in pieces, and in order with what the default stream does. The end of the
    block waits for the copies: what is staged can be flipped to. Its memory may be freed without a word to the stream
    that used it: every inference has ended with an answer on the host before an adapter is dropped.

    Args:
        device: where the model is.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pinned: list[Tensor] = []
        self._stream: Any = None
        self._context: Any = None

    def __enter__(self) -> PinnedStaging:
        self._stream = torch.cuda.Stream(self._device)
        self._context = torch.cuda.stream(self._stream)
        self._context.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.__exit__(kind, error, trace)
        self._stream.synchronize()
        self._pinned.clear()

    def send(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        pinned = tensor.detach().to(dtype).contiguous().pin_memory()
        # Kept until the copy has ended.
        self._pinned.append(pinned)
        return pinned.to(self._device, non_blocking=True)


def staging_to(device: torch.device) -> Staging:
    """How tensors are brought to a device: by its type alone, nothing is asked of it yet."""
    return PinnedStaging(device) if device.type == "cuda" else PlainStaging(device)
