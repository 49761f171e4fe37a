"""OpenVLA-OFT: a chunk of continuous actions in one forward pass (Kim et al. 2025, arXiv 2502.19645).

Sequence: BOS, patches of all images, the robot's state, the rest of the prompt, one empty slot for each number of the
chunk, end of sequence. Every position looks at every other one; the image and text positions too, as upstream's changed
Llama has it. What the last block makes of the positions before the slots goes through a head that was trained with an
L1 loss and gives the chunk in -1..1.

An edit needs probabilities where this policy has none. An L1 loss is the negative log-likelihood of a Laplace density:
the chunk is read as one, in the bins of OpenVLA's action tokens: log p(b) ~ -|c_b - a| / scale.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from vlaforget_ros.policy.config import OftConfig, PolicyConfig
from vlaforget_ros.policy.model import OpenVla

# Of a Llama tokenizer: the end of a sequence.
END_ID = 2
# Width of the Laplace density in bins: that of the soft labels with which the edit trains token policies.
SCALE_BINS = 3.0
_HEAD_BLOCKS = 2


class _HeadBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.ffn(x)


class ActionHead(nn.Module):
    """Residual MLP over what the slots of one control tick became; upstream's names, less its outer ``model.``."""

    def __init__(self, width: int, dims: int) -> None:
        super().__init__()
        self.dims = dims
        self.layer_norm1 = nn.LayerNorm(dims * width)
        self.fc1 = nn.Linear(dims * width, width)
        self.mlp_resnet_blocks = nn.ModuleList(_HeadBlock(width) for _ in range(_HEAD_BLOCKS))
        self.layer_norm2 = nn.LayerNorm(width)
        self.fc2 = nn.Linear(width, dims)

    def forward(self, slots: Tensor) -> Tensor:
        """(N, chunk * dims, D) -> (N, chunk * dims) values in -1..1, as far as training kept to it."""
        x = slots.unflatten(1, (-1, self.dims)).flatten(2)
        x = functional.relu(self.fc1(self.layer_norm1(x)))
        for block in self.mlp_resnet_blocks:
            x = block(x)
        found: Tensor = self.fc2(self.layer_norm2(x))
        return found.flatten(1)


class ProprioProjector(nn.Module):
    """The robot's state, scaled to -1..1, as one embedding."""

    def __init__(self, dims: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dims, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, state: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(state)))


class OpenVlaOft(OpenVla):
    """The whole network."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__(config)
        self.oft: OftConfig = _required(config)
        self.images = self.oft.images
        width = int(self.language_model.config.hidden_size)
        dims = {len(entry.q01) for entry in config.norm_stats.values()}
        if len(dims) != 1:
            raise ValueError(f"one action head cannot serve data sets of {sorted(dims)} dimensions")
        self.action_head = ActionHead(width, dims.pop())
        proprio = self.oft.proprio
        self.proprio_projector = None if proprio is None else ProprioProjector(len(proprio.low), width)
        for layer in self.language_model.model.layers:
            layer.self_attn.is_causal = False

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        """There is no next token here."""
        raise TypeError("OpenVLA-OFT predicts no tokens: use act() or chunk()")

    @property
    def empty_id(self) -> int:
        """Token id of a slot, and of padding."""
        return int(self.config.language["pad_token_id"])

    @property
    def slots(self) -> int:
        """Numbers of a chunk."""
        return self.oft.chunk * self.action_head.dims

    @torch.inference_mode()
    def act(self, pixel_values: Tensor, input_ids: Tensor, state: Tensor | None = None) -> Tensor:
        """As :meth:`decide`, without gradients."""
        return self.decide(pixel_values, input_ids, state)

    def decide(self, pixel_values: Tensor, input_ids: Tensor, state: Tensor | None = None) -> Tensor:
        """(N, A) the chunk in -1..1.

        Args:
            pixel_values: (N, images * 3 * towers, S, S).
            input_ids: (N, L) prompts, all of the same length.
            state: (N, P) as :meth:`scaled` gives it, where the policy is told it.
        """
        slots, padding = self.slots, self.empty_id
        places = (
            torch.arange(slots, device=input_ids.device) + self.config.image_tokens + input_ids.shape[1] - 1
        )
        filled = functional.pad(functional.pad(input_ids, (0, slots), value=padding), (0, 1), value=END_ID)
        embeds = self.embed(self.look(pixel_values, state), filled)
        return self.chunk(embeds, places.expand(len(input_ids), -1)).float()

    def scaled(self, states: np.ndarray) -> Tensor:
        """(N, P) states of the robot in -1..1, on the network's device."""
        bounds = self.oft.proprio
        if bounds is None:
            raise ValueError("this policy is not told the robot's state")
        low, high = np.array(bounds.low), np.array(bounds.high)
        # The addend is upstream's: a dimension that never moved must not divide by zero.
        scaled = np.where(bounds.mask, 2.0 * (states - low) / (high - low + 1e-8) - 1.0, states)
        place = self.projector.fc1.weight.device
        return torch.from_numpy(np.clip(scaled, -1.0, 1.0).astype(np.float32)).to(place)

    def look(self, pixel_values: Tensor, state: Tensor | None = None) -> Tensor:
        """(N, image tokens, D) embeddings of all images (N, images * 3 * towers, S, S) and of the state (N, P)."""
        each = pixel_values.unflatten(1, (self.images, -1)).flatten(0, 1)
        projected = self.projector(self.vision_backbone(each)).unflatten(0, (-1, self.images)).flatten(1, 2)
        return self.told(projected, state)

    def told(self, projected: Tensor, state: Tensor | None) -> Tensor:
        """Patches of all images (N, patches, D) with the embedding of the state (N, P) behind them, if there is one."""
        if self.proprio_projector is None or state is None:
            return projected
        return torch.cat([projected, self.proprio_projector(state.to(projected.dtype))[:, None]], dim=1)

    def embed(self, projected: Tensor, input_ids: Tensor) -> Tensor:
        """As OpenVla's; slots (which, like padding, have the padding id) are empty."""
        empty = input_ids[:, 1:] == self.empty_id
        embedded = super().embed(projected, input_ids)
        before = embedded.shape[1] - empty.shape[1]
        keep = functional.pad(~empty, (before, 0), value=True)
        return embedded * keep[..., None]

    def seen(self, length: int, positions: Tensor) -> Tensor:
        """All positions up to the end of the sequence, two behind the last that predicts a number."""
        ends = positions[:, -1] + 2
        places = torch.arange(length, device=positions.device)
        return (places <= ends[:, None])[:, None, None]

    def picked_logits(self, hidden: Tensor) -> Tensor:
        """(N, A, B) of the bins, lowest first."""
        return self.laplace(self.values(hidden))

    def values(self, hidden: Tensor) -> Tensor:
        """(N, A) the chunk in -1..1, from what the last block gives at the positions (N, A, D)."""
        inner: Any = self.language_model.model
        found: Tensor = self.action_head(inner.norm(hidden))
        return found

    def laplace(self, values: Tensor) -> Tensor:
        """(N, A, B) logits of a Laplace density around (N, A) values."""
        bins = self.config.bins
        step = 2.0 / (bins - 1)
        centres = -1.0 + step * (torch.arange(bins, device=values.device) + 0.5)
        return -(values.float()[..., None] - centres).abs() / (SCALE_BINS * step)

    def chunk(self, embeds: Tensor, positions: Tensor) -> Tensor:
        """(N, A) values of the chunk, from all embeddings (N, T, D)."""
        inner: Any = self.language_model.model
        seen = self.seen(embeds.shape[1], positions)
        hidden = inner(inputs_embeds=embeds, attention_mask=seen, use_cache=False).last_hidden_state
        picked = hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))
        found: Tensor = self.action_head(picked)
        return found


def _required(config: PolicyConfig) -> OftConfig:
    if config.oft is None:
        raise ValueError("no OpenVLA-OFT: the configuration has no oft")
    return config.oft
