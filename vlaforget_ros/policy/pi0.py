"""pi0-FAST: SigLIP → linear projector → Gemma (PaliGemma), with actions as FAST tokens (arXiv 2501.09747).

Sequence: patches of all images, BOS, prompt with the robot's state, BOS, action tokens. Image and prompt look at each
other in both directions, the second BOS among them as upstream serves it; action tokens are causal. (Upstream trains
without that last look. What an edit must change is what the arm does, so it follows serving.)

The parts are the library's, put together by hand: the chain can be entered in the middle, and one thing cannot go wrong
unnoticed. Gemma multiplies the embeddings of words, and of words only, by the root of its width. Depending on its
version the library does that in the embedding, in the model, or divides the images by it instead.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GemmaConfig, GemmaForCausalLM, SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer, SiglipVisionEmbeddings

from vlaforget_ros.policy.config import FastConfig, PolicyConfig, VisionTowerConfig
from vlaforget_ros.policy.model import OpenVla
from vlaforget_ros.policy.vit import Tower

TABLE, HEAD = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"


class _Block(SiglipEncoderLayer):
    def forward(self, hidden_states: Tensor) -> Tensor:
        found: Tensor = super().forward(hidden_states, None)
        return found


class SiglipTower(Tower):
    """SigLIP as PaliGemma uses it: all blocks, the final norm, no pooling head."""

    def __init__(self, config: VisionTowerConfig) -> None:
        super().__init__()
        self.config = config
        library = SiglipVisionConfig(
            hidden_size=config.dim,
            intermediate_size=config.mlp_dim,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            image_size=config.image_size,
            patch_size=config.patch_size,
        )
        library._attn_implementation = "sdpa"
        self.embeddings = SiglipVisionEmbeddings(library)
        self.blocks = nn.ModuleList(_Block(library) for _ in range(config.depth))
        self.post_layernorm = nn.LayerNorm(config.dim, eps=library.layer_norm_eps)

    def embed(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.embeddings(pixels)
        return found

    def features(self, x: Tensor) -> Tensor:
        found: Tensor = self.post_layernorm(x)
        return found


class _Backbone(nn.Module):
    def __init__(self, config: VisionTowerConfig) -> None:
        super().__init__()
        self.featurizer = SiglipTower(config)
        self.fused_featurizer = None

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, S, S) -> (N, patches, vision_dim)."""
        found: Tensor = self.featurizer(pixels)
        return found


class _Projector(nn.Module):
    def __init__(self, vision_dim: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(vision_dim, width)

    def forward(self, features: Tensor) -> Tensor:
        found: Tensor = self.linear(features)
        return found


class Pi0Fast(OpenVla):
    """The whole network, with its parts where OpenVLA has them."""

    causal_prompt = False

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__(config)
        self.fast = _required(config)
        # PaliGemma reads and writes words with one table; lerobot 0.6 trains two.
        if config.language.get("tie_word_embeddings", True):
            self.shared = MappingProxyType({HEAD: TABLE})
        self.images = self.fast.images

    def _parts(self, config: PolicyConfig) -> tuple[Any, Any, Any]:
        language = GemmaConfig(**config.language)
        return (
            _Backbone(config.featurizer),
            _Projector(config.featurizer.dim, language.hidden_size),
            GemmaForCausalLM(language),
        )

    def look(self, pixel_values: Tensor) -> Tensor:
        """(N, image tokens, D) embeddings of all images (N, images * 3, S, S)."""
        each = pixel_values.unflatten(1, (self.images, -1)).flatten(0, 1)
        found: Tensor = self.projector(self.vision_backbone(each)).unflatten(0, (-1, self.images))
        return found.flatten(1, 2)

    def embed(self, projected: Tensor, input_ids: Tensor) -> Tensor:
        """Language-model inputs (N, image tokens + L, D): images as they are, words times the root of the width."""
        tokens = self.words(input_ids)
        return torch.cat([projected.to(tokens.dtype), tokens], dim=1)

    def rebuild_buffers(self, device: str) -> None:
        super().rebuild_buffers(device)
        table: Any = self.language_model.get_input_embeddings()
        table.embed_scale = torch.tensor(float(table.scalar_embed_scale), device=device)
        embeddings: Any = self.vision_backbone.featurizer.embeddings
        embeddings.position_ids = torch.arange(embeddings.num_positions, device=device)[None]

    def words(self, ids: Tensor) -> Tensor:
        """(..., D) embeddings of token ids, times the root of D: here, whatever version of the library is there."""
        table = self.language_model.get_input_embeddings().weight
        return functional.embedding(ids, table) * table.shape[1] ** 0.5

    def seen(self, length: int, positions: Tensor) -> Tensor:
        """Up to the first position that predicts, which ends the prompt, everything; behind it what came before."""
        places = torch.arange(length, device=positions.device)
        last = torch.maximum(places, positions[:, :1])
        return (places <= last[..., None])[:, None]

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Which positions are prompt is not known here."""
        raise TypeError("pi0-FAST must know where the prompt ends: use teacher()")

    def teacher(self, projected: Tensor, input_ids: Tensor, positions: Tensor) -> Tensor:
        """(N, A, V) logits at the positions that predict the action, under teacher forcing.

        Args:
            projected: (N, image tokens, D) as :meth:`look` gives it.
            input_ids: (N, L) prompt and action tokens, padded on the right.
            positions: (N, A) of what the model gives, the first being the last of the prompt.
        """
        embeds = self.embed(projected, input_ids)
        inner: Any = self.language_model.model
        seen = self.seen(embeds.shape[1], positions)
        hidden = inner(inputs_embeds=embeds, attention_mask=seen, use_cache=False).last_hidden_state
        found: Tensor = self.language_model.lm_head(
            hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))
        )
        return found


def _required(config: PolicyConfig) -> FastConfig:
    if config.fast is None:
        raise ValueError("no pi0-FAST: the configuration has no fast")
    return config.fast
