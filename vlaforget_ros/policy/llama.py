"""Llama and Gemma layers taken apart: what serving and editing need of them, on the library's own modules.

The library runs a layer as a whole. Here keys and values can be kept where the caller wants them, and the output can
be asked for at a few positions only. Every linear layer is still called as a module, so that adapters take part.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

Rotary = tuple[Tensor, Tensor]


def picked_output(
    block: nn.Module, hidden: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, seen: Tensor | None = None
) -> Tensor:
    """What a layer gives at some positions, no padding on the left.

    Keys and values are needed at every position; queries, attention output and MLP at those alone: on the embedded
    policy that is about a quarter of the layer.

    Args:
        block: the layer.
        hidden: (N, T, D) its input.
        positions: (N, A) which outputs.
        cos: (1, T, head) rotary embedding.
        sin: the same.
        seen: (N, 1, 1 or T, T) positions that are looked at, by all or by each; None: causal attention.

    Returns:
        (N, A, D).
    """
    layer: Any = block
    index = positions[..., None].expand(-1, -1, hidden.shape[-1])
    normed = layer.input_layernorm(hidden)
    key, value = _keys_values(layer, normed, (cos, sin))
    query = _queries(layer, normed.gather(1, index), (cos[0][positions], sin[0][positions]))
    if seen is None:
        seen = torch.arange(hidden.shape[1], device=hidden.device) <= positions[:, None, :, None]
    elif seen.shape[2] > 1:
        seen = seen.gather(2, positions[:, None, :, None].expand(-1, -1, -1, seen.shape[3]))
    return _finish(layer, hidden.gather(1, index), query, key, value, seen=seen)


class KeyValues:
    """Keys and values of one sequence, written once and read by every later token: nothing is concatenated.

    Args:
        layers: number of layers.
        shape: (B, key-value heads, positions, head) of one of them.
        like: gives device and type.
    """

    def __init__(self, layers: int, shape: tuple[int, int, int, int], like: Tensor) -> None:
        # A tensor for each layer: a compiled function that writes into views of one would copy it.
        self._keys = [like.new_empty(shape) for _ in range(layers)]
        self._values = [like.new_empty(shape) for _ in range(layers)]

    def append(self, layer: int, start: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write (B, heads, T, head) from position ``start`` on; returns all positions up to the last written."""
        stop = start + key.shape[2]
        keys, values = self._keys[layer], self._values[layer]
        keys[:, :, start:stop] = key
        values[:, :, start:stop] = value
        return keys[:, :, :stop], values[:, :, :stop]


def cached_output(
    block: nn.Module,
    place: int,
    hidden: Tensor,
    start: int,
    rotary: Rotary,
    cache: KeyValues,
    last_only: bool,
    causal: bool = True,
    seen: Tensor | None = None,
) -> Tensor:
    """What a layer gives for the next positions of a sequence whose earlier ones are in the cache.

    Args:
        block: the layer.
        place: its index in the cache.
        hidden: (B, T, D) its input at positions ``start`` to ``start + T``; T > 1 only with ``start`` 0.
        start: first position.
        rotary: (1, positions, head) cosines and sines of all positions.
        cache: gets keys and values.
        last_only: only the last position is asked for.
        causal: whether each position of this call looks at earlier ones only, or at all that are in the cache.
        seen: (B, 1, 1, start + T) positions that are looked at, of those in the cache; only where not causal.

    Returns:
        (B, T, D), or (B, 1, D) with ``last_only``.
    """
    layer: Any = block
    count = hidden.shape[1]
    here = rotary[0][:, start : start + count], rotary[1][:, start : start + count]
    normed = layer.input_layernorm(hidden)
    key, value = cache.append(place, start, *_keys_values(layer, normed, here))
    if last_only:
        normed, hidden, here = normed[:, -1:], hidden[:, -1:], (here[0][:, -1:], here[1][:, -1:])
    query = _queries(layer, normed, here)
    return _finish(layer, hidden, query, key, value, seen, causal and not last_only)


def rotary_of(language: nn.Module, hidden: Tensor, count: int) -> Rotary:
    """(1, count, head) cosines and sines of positions 0 to ``count``, in the type of ``hidden``."""
    model: Any = language
    places = torch.arange(count, device=hidden.device)[None]
    found: Rotary = model.rotary_emb(hidden, position_ids=places)
    return found


def _keys_values(layer: Any, normed: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor]:
    attention = layer.self_attn
    key = _heads(attention.k_proj(normed), attention.head_dim)
    return _turned(key, rotary), _heads(attention.v_proj(normed), attention.head_dim)


def _queries(layer: Any, normed: Tensor, rotary: Rotary) -> Tensor:
    attention = layer.self_attn
    return _turned(_heads(attention.q_proj(normed), attention.head_dim), rotary)


def _turned(x: Tensor, rotary: Rotary) -> Tensor:
    found: Tensor = apply_rotary_pos_emb(x, x[:, :1], *rotary)[0]
    return found


def _finish(
    layer: Any,
    hidden: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    seen: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """Attention, its residual and the MLP at the positions of ``query``."""
    mixed = functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=seen,
        is_causal=causal,
        scale=layer.self_attn.scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    picked = hidden + layer.self_attn.o_proj(mixed.transpose(1, 2).flatten(2))
    found: Tensor = picked + layer.mlp(layer.post_attention_layernorm(picked))
    return found


def _heads(x: Tensor, size: int) -> Tensor:
    """(N, T, heads * size) -> (N, heads, T, size)."""
    return x.unflatten(-1, (-1, size)).transpose(1, 2)
