"""The OpenVLA network: vision towers → projector → Llama, with upstream's parameter names.

Sequence: BOS, image patches, rest of the prompt, action tokens (Kim et al. 2024, arXiv 2406.09246).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from vlaforget_ros.policy.config import PolicyConfig
from vlaforget_ros.policy.vit import Tower, VisionTransformer


class VisionBackbone(nn.Module):
    """One or two towers on their own normalised channels; features are concatenated."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.featurizer = VisionTransformer(config.featurizer)
        self.fused_featurizer = (
            VisionTransformer(config.fused_featurizer) if config.fused_featurizer else None
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3 * towers, H, W) → (B, patches, vision_dim)."""
        features = self.featurizer(pixel_values[:, :3])
        if self.fused_featurizer is None:
            return features
        return torch.cat([features, self.fused_featurizer(pixel_values[:, 3:])], dim=-1)


class Projector(nn.Module):
    """Visual features to language embeddings: three linear layers with exact GELUs between them."""

    def __init__(self, vision_dim: int, language_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision_dim, 4 * vision_dim)
        self.fc2 = nn.Linear(4 * vision_dim, language_dim)
        self.fc3 = nn.Linear(language_dim, language_dim)

    def forward(self, features: Tensor) -> Tensor:
        return self.fc3(functional.gelu(self.fc2(functional.gelu(self.fc1(features)))))


class OpenVla(nn.Module):
    """The whole network."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_backbone, self.projector, self.language_model = self._parts(config)

    def _parts(self, config: PolicyConfig) -> tuple[Any, Any, Any]:
        """Vision, projector and language model; other networks have others in their places."""
        language = LlamaConfig(**config.language)
        return (
            VisionBackbone(config),
            Projector(config.vision_dim, language.hidden_size),
            LlamaForCausalLM(language),
        )

    def embed(self, projected: Tensor, input_ids: Tensor) -> Tensor:
        """Language-model inputs: BOS, patches, the rest of the tokens.

        Args:
            projected: (B, patches, D) projector output.
            input_ids: (B, L) token ids, the first of each row being BOS.

        Returns:
            (B, patches + L, D).
        """
        tokens = self.words(input_ids)
        return torch.cat([tokens[:, :1], projected.to(tokens.dtype), tokens[:, 1:]], dim=1)

    def look(self, pixel_values: Tensor) -> Tensor:
        """(B, image tokens, D) embeddings of what is seen, (B, images * 3 * towers, S, S)."""
        found: Tensor = self.projector(self.vision_backbone(pixel_values))
        return found

    def told(self, projected: Tensor, state: Tensor | None) -> Tensor:
        """What is seen (B, patches, D) with what is felt behind it; only some networks have an input for that."""
        return projected

    def words(self, ids: Tensor) -> Tensor:
        """(..., D) embeddings of token ids."""
        found: Tensor = self.language_model.get_input_embeddings()(ids)
        return found

    def rebuild_buffers(self, device: str) -> None:
        """Compute what no checkpoint stores: the frequencies of the rotary embedding."""
        inner: Any = self.language_model.model
        with torch.device(device):
            inner.rotary_emb = type(inner.rotary_emb)(config=self.language_model.config)

    # Names of weights that are another one's: name -> name of the other.
    shared: Mapping[str, str] = MappingProxyType({})
    # How many images one observation has.
    images = 1
    # Whether image and prompt are read from front to back, as text; otherwise each position looks at every other one.
    causal_prompt = True

    @property
    def vision_towers(self) -> list[Tower]:
        """The towers in channel order."""
        backbone = self.vision_backbone
        return [tower for tower in (backbone.featurizer, backbone.fused_featurizer) if tower is not None]

    def picked_logits(self, hidden: Tensor) -> Tensor:
        """(N, A, V) logits of what the last block gives at the positions (N, A, D) that predict actions."""
        inner: Any = self.language_model.model
        found: Tensor = self.language_model.lm_head(inner.norm(hidden))
        return found

    def seen(self, length: int, positions: Tensor) -> Tensor | None:
        """(N, 1, 1 or length, length) which positions may be looked at, by all or by each; None: those before.

        Args:
            length: of the sequences, padding included.
            positions: (N, A) that predict actions.
        """
        return None

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Logits (B, patches + L, vocabulary); ``attention_mask`` is (B, L) over ``input_ids``."""
        projected = self.projector(self.vision_backbone(pixel_values))
        return self.logits(projected, input_ids, attention_mask)

    def logits(self, projected: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """As :meth:`forward`, from projector output (B, patches, D)."""
        if attention_mask is not None:
            ones = attention_mask.new_ones(projected.shape[:2])
            attention_mask = torch.cat([attention_mask[:, :1], ones, attention_mask[:, 1:]], dim=1)
        output = self.language_model(
            inputs_embeds=self.embed(projected, input_ids), attention_mask=attention_mask, use_cache=False
        )
        return output.logits
