"""The policy network as a chain that can be entered in the middle, so that frozen work is done once.

An edit trains a few layers. Everything below the first of them is constant: its output, the *entry state*, is
computed once for every frame and cached; a training step then costs only what lies above. On the embedded
policy the convolutional stem, the most expensive part on a CPU, is never run again after the first pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vlaforget_ros.policy.llama import picked_output, rotary_of
from vlaforget_ros.policy.model import OpenVla
from vlaforget_ros.policy.vit import Tower
from vlaforget_ros.unlearning.parameters import StageName

_TOWERS = ("featurizer", "fused_featurizer")


@dataclass(frozen=True)
class Entry:
    """Where a forward pass enters the network.

    Args:
        stage: component it enters.
        blocks: first block that is run: one index for each vision tower, or the language block. Empty for the
            projector, which is entered as a whole.
    """

    stage: StageName
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Output:
    """What a forward pass from an entry shows.

    Args:
        visual: (N, patches, vision_dim), None where the entry lies above.
        projected: (N, patches, D) of the images alone, None where the entry lies above.
        logits: (N, A, V) that predict each action token.
        hidden: language block -> (N, A, D) its output at the positions of ``logits``, for the blocks that were run.
    """

    visual: Tensor | None
    projected: Tensor | None
    logits: Tensor
    hidden: dict[int, Tensor] = field(default_factory=dict)


class Network:
    """Forward passes from any entry; adapters that are attached to the model's layers take part.

    Args:
        model: the network, in evaluation mode.
        checkpointing: keep only the inputs of blocks for the backward pass and compute the rest again.
    """

    def __init__(self, model: OpenVla, checkpointing: bool = False) -> None:
        self.model, self._checkpointing = model, checkpointing
        self._towers = model.vision_towers

    @contextmanager
    def recomputing(self, needed: bool) -> Iterator[None]:
        """Inside, if needed, keep only the inputs of blocks as with ``checkpointing``."""
        own, self._checkpointing = self._checkpointing, self._checkpointing or needed
        try:
            yield
        finally:
            self._checkpointing = own

    def entry(self, layers: Iterable[str]) -> Entry:
        """The entry just below the first of the named layers."""
        names = list(layers)
        if any(name.startswith("vision_backbone.") for name in names):
            starts = []
            for key, tower in zip(_TOWERS, self._towers, strict=False):
                prefix = f"vision_backbone.{key}.blocks."
                edited = [int(name.split(".")[3]) for name in names if name.startswith(prefix)]
                starts.append(min(edited, default=tower.used_blocks))
            return Entry("visual", tuple(starts))
        if any(name.startswith("projector.") for name in names):
            return Entry("projector")
        return Entry("language", (min(int(name.split(".")[3]) for name in names),))

    @torch.no_grad()
    def enter(
        self,
        entry: Entry,
        pixels: Tensor,
        input_ids: Tensor,
        positions: Tensor,
        proprio: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """The states at an entry: one tensor, or one for each vision tower, first dimension N.

        Args:
            entry: where.
            pixels: (N, images * 3 * towers, S, S).
            input_ids: as in :meth:`run`.
            positions: as in :meth:`run`.
            proprio: as in :meth:`run`.
        """
        channels = pixels.unflatten(1, (self.model.images, -1)).flatten(0, 1).split(3, dim=1)
        embedded = [self._grouped(t.embed(part)) for t, part in zip(self._towers, channels, strict=True)]
        if entry.stage == "visual":
            return tuple(
                self._grouped(self._blocks(tower, x.flatten(0, 1), 0, stop))
                for tower, x, stop in zip(self._towers, embedded, entry.blocks, strict=True)
            )
        visual = self._visual(tuple(embedded), (0,) * len(embedded))
        if entry.stage == "projector":
            return (visual,)
        hidden = self.model.embed(self.model.told(self.model.projector(visual), proprio), input_ids)
        seen = self.model.seen(hidden.shape[1], positions)
        return (self._language(hidden, 0, entry.blocks[0], seen),)

    def run(
        self,
        entry: Entry,
        state: tuple[Tensor, ...],
        input_ids: Tensor,
        positions: Tensor,
        proprio: Tensor | None = None,
    ) -> Output:
        """The rest of a forward pass.

        Args:
            entry: where ``state`` is from.
            state: as :meth:`enter` gave it.
            input_ids: (N, L) prompt and action tokens, padded on the right.
            positions: (N, A) output positions that predict the action tokens.
            proprio: (N, P) scaled state of the robot, where the policy is told it. Its projector is never edited.
        """
        visual = projected = None
        if entry.stage == "language":
            hidden, start = state[0], entry.blocks[0]
        else:
            visual = self._visual(state, entry.blocks) if entry.stage == "visual" else state[0]
            projected = self.model.projector(visual)
            hidden, start = self.model.embed(self.model.told(projected, proprio), input_ids), 0
        language = self.model.language_model
        end = len(language.model.layers) - 1
        if start > end:
            raise ValueError("an entry above the last language block leaves nothing to run")
        picked: dict[int, Tensor] = {}
        seen = self.model.seen(hidden.shape[1], positions)
        for block in range(start, end):
            hidden = self._language(hidden, block, block + 1, seen)
            picked[block] = hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))
        cos, sin = rotary_of(language.model, hidden, hidden.shape[1])
        last = language.model.layers[end]
        picked[end] = self._call(picked_output, last, hidden, positions, cos, sin, seen)
        return Output(visual, projected, self.model.picked_logits(picked[end]), picked)

    def _visual(self, state: tuple[Tensor, ...], starts: tuple[int, ...]) -> Tensor:
        towers = zip(self._towers, state, starts, strict=True)
        ends = [(t, self._blocks(t, x.flatten(0, 1), start, t.used_blocks)) for t, x, start in towers]
        features = torch.cat([tower.encode(x, tower.used_blocks) for tower, x in ends], dim=-1)
        return self._grouped(features).flatten(1, 2)

    def _grouped(self, x: Tensor) -> Tensor:
        """(N * images, ...) -> (N, images, ...)."""
        return x.unflatten(0, (-1, self.model.images))

    def _blocks(self, tower: Tower, x: Tensor, start: int, stop: int) -> Tensor:
        for block in tower.blocks[start:stop]:
            x = self._call(block, x)
        return x

    def _language(self, hidden: Tensor, start: int, stop: int, seen: Tensor | None) -> Tensor:
        """Blocks ``start`` to ``stop``; causal attention needs no mask: no real token looks at padding on its right."""
        rotary = rotary_of(self.model.language_model.model, hidden, hidden.shape[1])
        for block in self.model.language_model.model.layers[start:stop]:
            hidden = self._call(block, hidden, attention_mask=seen, position_embeddings=rotary)
        return hidden

    def _call(self, block: Callable[..., Any], *inputs: Any, **keywords: Any) -> Tensor:
        found: Tensor
        if not self._checkpointing or not torch.is_grad_enabled():
            found = block(*inputs, **keywords)
            return found
        found = checkpoint(block, *inputs, use_reentrant=False, **keywords)
        return found
