"""The sets of an edit as tensors, with what the original policy says about each frame: once, and only if asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from vlaforget_ros.episodes.dataset import FrameSet
from vlaforget_ros.policy.images import pixel_values
from vlaforget_ros.policy.labels import bins_of
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning import objective
from vlaforget_ros.unlearning.network import Entry, Network, Output
from vlaforget_ros.unlearning.parameters import MethodParameters
from vlaforget_ros.unlearning.portions import Found, most_frames, portions

CHUNK = 128


@dataclass(frozen=True, eq=False)
class Features:
    """Features of the original policy on the frames of a set, in host memory: of all frames they are large.

    Args:
        visual: (N, patches, vision_dim).
        projected: (N, patches, D).
    """

    visual: Tensor
    projected: Tensor


class Bank:
    """One set, encoded.

    Args:
        name: of the set.
        policy: the policy under edit.
        network: the same policy's network.
        frames: the set.
        parameters: label width and window of the objective.
        check: called between chunks; may raise (cancelled, out of memory).
        original: inside it the policy is the original one: no second copy of the model is needed.
        told: what goes on, with the frames so far.
    """

    def __init__(
        self,
        name: str,
        policy: VlaPolicy,
        network: Network,
        frames: FrameSet,
        parameters: MethodParameters,
        check: Callable[[], None],
        original: Callable[[], AbstractContextManager[None]],
        told: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.name, self._original, self._told = name, original, told
        self.frames, self.policy, self._network, self._check = frames, policy, network, check
        self.window, self._autocast = parameters.forget_window_bins, parameters.autocast == "bf16"
        starts = range(0, len(frames), CHUNK)
        parts = [frames.take(np.arange(start, min(start + CHUNK, len(frames)))) for start in starts]
        chunks = [policy.encode(f.images, f.instructions, f.actions, f.states) for f in parts]
        longest = max(chunk.input_ids.shape[1] for chunk in chunks)
        # Padding is never looked at (see Network), but slots of a chunk are known by its id.
        padding = int(policy.config.language["pad_token_id"])
        self.input_ids = torch.cat([_pad(chunk.input_ids, longest, padding) for chunk in chunks])
        states = [chunk.states for chunk in chunks if chunk.states is not None]
        self._proprio = torch.cat(states) if states else None
        most = max(chunk.action_tokens.shape[1] for chunk in chunks)
        self.positions = torch.cat([_continued(chunk.action_positions, most) for chunk in chunks])
        self.bins = bins_of(torch.cat([_continued(c.action_tokens, most) for c in chunks]), policy.codec)
        self.labelled = torch.cat([_pad(chunk.labelled.float(), most, 0.0) for chunk in chunks])
        self.mask = self._undesired()
        self._bottom = Entry("visual", (0,) * len(policy.config.towers))
        self._entry: Entry | None = None
        self._states: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.frames)

    def cache(self, entry: Entry, limit_bytes: float) -> float:
        """Keep the states at an entry for all frames, unless they exceed the limit.

        Returns:
            bytes that are now cached, 0 where the states will be computed on the fly.
        """
        self._entry, self._states = entry, ()
        first = self._enter(entry, np.arange(1))
        size = len(self) * sum(state.numel() * state.element_size() for state in first)
        if size > limit_bytes:
            return 0.0
        found = self.portions(self._all, lambda rows: self._enter(entry, rows), "caching states")
        parts = [part for _, part in found]
        self._states = tuple(torch.cat(column) for column in zip(*parts, strict=True))
        return float(size)

    def forward(self, rows: np.ndarray) -> Output:
        """A forward pass of some frames from the present entry."""
        if self._entry is None:
            raise RuntimeError("cache() says where forward passes enter: call it first")
        index, state = torch.from_numpy(rows), self._state(self._entry, rows)
        with torch.autocast(self.policy.device.type, torch.bfloat16, enabled=self._autocast):
            return self._network.run(self._entry, state, *self.told(index))

    @torch.no_grad()
    def fresh(self, rows: np.ndarray) -> Output:
        """A whole forward pass from the pixels, whatever the present entry is."""
        index, state = torch.from_numpy(rows), self._state(self._bottom, rows)
        return self._network.run(self._bottom, state, *self.told(index))

    def bins_of(self, actions: np.ndarray) -> Tensor:
        """(N, A) bins of other actions for the same frames, in as many tokens as the recorded ones have."""
        tokens = torch.from_numpy(self.policy.codec.encode(actions)).to(self.bins.device)
        return bins_of(_continued(tokens, self.bins.shape[1]), self.policy.codec)

    def _undesired(self) -> Tensor:
        """(N, A) 1 where recorded and desired token differ by more than the window; all motions if unknown."""
        motions = self.labelled * self.policy.codec.is_motion(self.bins)
        if self.frames.desired is None:
            return motions
        return motions * ((self.bins_of(self.frames.desired) - self.bins).abs() > self.window)

    def log_probs(self, output: Output) -> Tensor:
        """(N, A, B) log-probabilities of the action tokens."""
        return self.policy.log_probs(output.logits)

    def _enter(self, entry: Entry, rows: np.ndarray) -> tuple[Tensor, ...]:
        pixels = pixel_values(self.frames.images[rows], self.policy.config, self.policy.device)
        return self._network.enter(entry, pixels, *self.told(torch.from_numpy(rows)))

    def told(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """What some frames are told beside their images: input ids, positions, state of the robot."""
        proprio = None if self._proprio is None else self._proprio[index]
        return self.input_ids[index], self.positions[index], proprio

    def _state(self, entry: Entry, rows: np.ndarray) -> tuple[Tensor, ...]:
        """States at an entry, from the cache where they are in it."""
        if self._states and entry == self._entry:
            index = torch.from_numpy(rows)
            return tuple(state[index] for state in self._states)
        return self._enter(entry, rows)

    # Each is constant and may cost a pass over the whole set: only methods that use it pay for it.

    @cached_property
    def reference(self) -> Tensor:
        """(N, A, B) log-probabilities of the action tokens, from the original policy; in host memory."""
        return torch.cat([self.log_probs(output).cpu() for output in self._original_outputs()])

    @cached_property
    def motion_reference(self) -> Tensor:
        """(N, A) log-probability of the recorded motion under the original policy."""
        pairs = zip(self.reference.split(CHUNK), self.bins.cpu().split(CHUNK), strict=True)
        found = [objective.motion_log_prob(reference, bins, self.window) for reference, bins in pairs]
        return torch.cat(found).to(self.bins.device)

    @cached_property
    def features(self) -> Features:
        """Features of the original policy; the largest of the cached tensors by far."""
        parts = [(_on_host(output.visual), _on_host(output.projected)) for output in self._original_outputs()]
        visual, projected = (torch.cat(column) for column in zip(*parts, strict=True))
        return Features(visual, projected)

    def _original_outputs(self) -> Iterator[Output]:
        for _, output in self.portions(self._all, self._original_output, "asking the original policy"):
            yield output

    def _original_output(self, rows: np.ndarray) -> Output:
        with self._original():
            return self.fresh(rows)

    def portions(
        self, rows: np.ndarray, work: Callable[[np.ndarray], Found], doing: str, limit: int = CHUNK
    ) -> Iterator[tuple[np.ndarray, Found]]:
        """Work without gradients on rows, as many at a time as memory and ``limit`` allow.

        Between them ``check`` is asked, and ``told`` is told what is done and how many of the rows are.
        """
        done = 0

        def checked(part: np.ndarray) -> Found:
            self._check()
            self._told(f"{doing}, {self.name}: {done} of {len(rows)} frames")
            return work(part)

        for part, found in portions(rows, most_frames(self.policy, "looking", limit), checked):
            done += len(part)
            yield part, found

    @property
    def _all(self) -> np.ndarray:
        return np.arange(len(self))


def _pad(columns: Tensor, length: int, value: float) -> Tensor:
    return torch.nn.functional.pad(columns, (0, length - columns.shape[1]), value=value)


def _continued(columns: Tensor, length: int) -> Tensor:
    """(N, length) the columns, the last one repeated, or as many of them."""
    missing = max(0, length - columns.shape[1])
    return torch.cat([columns, columns[:, -1:].expand(-1, missing)], dim=1)[:, :length]


def _on_host(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise ValueError("a whole pass shows all features")
    return tensor.cpu()
