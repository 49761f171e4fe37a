"""The last language block where only a few positions of its output are asked for.

An edit looks at the positions that predict actions. Keys and values of the last block are needed at every position,
queries, attention output and MLP at those alone: on the embedded policy that is about a quarter of the block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb


def picked_output(block: nn.Module, hidden: Tensor, positions: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """What a Llama decoder layer gives at some positions, causal attention and no padding on the left.

    Args:
        block: the layer.
        hidden: (N, T, D) its input.
        positions: (N, A) which outputs.
        cos: (1, T, head) rotary embedding.
        sin: the same.

    Returns:
        (N, A, D).
    """
    layer: Any = block
    attention = layer.self_attn
    index = positions[..., None].expand(-1, -1, hidden.shape[-1])
    normed = layer.input_layernorm(hidden)
    query = _heads(attention.q_proj(normed.gather(1, index)), attention.head_dim)
    key = _heads(attention.k_proj(normed), attention.head_dim)
    value = _heads(attention.v_proj(normed), attention.head_dim)
    query, _ = apply_rotary_pos_emb(query, query, cos[0][positions], sin[0][positions])
    key, _ = apply_rotary_pos_emb(key, key, cos, sin)
    seen = torch.arange(hidden.shape[1], device=hidden.device) <= positions[:, None, :, None]
    mixed = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=seen, scale=attention.scaling, enable_gqa=query.shape[1] != key.shape[1]
    )
    picked = hidden.gather(1, index) + attention.o_proj(mixed.transpose(1, 2).flatten(2))
    found: Tensor = picked + layer.mlp(layer.post_attention_layernorm(picked))
    return found


def _heads(x: Tensor, size: int) -> Tensor:
    """(N, T, heads * size) -> (N, heads, T, size)."""
    return x.unflatten(-1, (-1, size)).transpose(1, 2)
