"""Greedy decoding of action tokens: the same tokens as the library's ``generate``, with less work.

* Keys and values lie in buffers that are allocated once for each length of prompt.
* Of the last layer only the position that predicts the next token is computed.
* The LM head is computed for the action tokens alone, a few hundred rows of tens of thousands. The first token of every
  action is looked for in the whole vocabulary: a policy that would rather say something shows there, and that is a
  fault, not a motion.

A prompt's keys and values cannot be kept from one image to the next: in this sequence it stands behind the image.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vlaforget_ros.policy.llama import KeyValues, Rotary, cached_output, rotary_of
from vlaforget_ros.policy.model import OpenVla

# Buffers that are kept: a robot has a few lengths of prompt and one or two arms. Large batches are for evaluation.
_KEPT, _KEPT_BATCH = 8, 4


@dataclass(frozen=True)
class _Buffers:
    cache: KeyValues
    rotary: Rotary


class Decoder:
    """Decodes actions with one network.

    Args:
        model: the network, in evaluation mode. Its LM head is used without the hooks of adapters.
        actions: ids of the action tokens.
        checked: how many leading tokens of an action are looked for in the whole vocabulary.

    One thread at a time: two actions would share the buffers.
    """

    def __init__(self, model: OpenVla, actions: range, checked: int = 1) -> None:
        self._model, self._actions, self._checked = model, actions, checked
        self._buffers: OrderedDict[tuple[int, int, torch.device, torch.dtype], _Buffers] = OrderedDict()

    @torch.inference_mode()
    def generate(self, pixel_values: Tensor, input_ids: Tensor, count: int) -> Tensor:
        """Greedy tokens (B, count), deterministic.

        Args:
            pixel_values: (B, 3 * towers, S, S).
            input_ids: (B, L) prompts, all of the same length.
            count: number of tokens.
        """
        model = self._model
        return self.decode(
            model.embed(model.projector(model.vision_backbone(pixel_values)), input_ids), count
        )

    @torch.inference_mode()
    def decode(self, embeds: Tensor, count: int) -> Tensor:
        """As :meth:`generate`, from the embeddings (B, T, D) of image and prompt."""
        start = embeds.shape[1]
        buffers = self._buffers_for(embeds, start + count - 1)
        table = self._model.language_model.get_input_embeddings()
        hidden, position = embeds, 0
        tokens: list[Tensor] = []
        while True:
            tokens.append(self._next(self._layers(hidden, position, buffers), len(tokens) < self._checked))
            if len(tokens) == count:
                return torch.stack(tokens, dim=1)
            hidden, position = table(tokens[-1])[:, None], start + len(tokens) - 1

    def _layers(self, hidden: Tensor, start: int, buffers: _Buffers) -> Tensor:
        """(B, D) what the last position becomes, normed."""
        inner: Any = self._model.language_model.model
        last = len(inner.layers) - 1
        for place, block in enumerate(inner.layers):
            hidden = cached_output(block, place, hidden, start, buffers.rotary, buffers.cache, place == last)
        normed: Tensor = inner.norm(hidden[:, -1])
        return normed

    def _next(self, hidden: Tensor, whole: bool) -> Tensor:
        """(B,) the likeliest token, in the whole vocabulary or among the action tokens."""
        head = self._model.language_model.lm_head
        rows = slice(None) if whole else slice(self._actions.start, self._actions.stop)
        bias = None if head.bias is None else head.bias[rows]
        place = functional.linear(hidden, head.weight[rows], bias).argmax(dim=-1)
        return place if whole else place + self._actions.start

    def _buffers_for(self, embeds: Tensor, length: int) -> _Buffers:
        if embeds.is_cuda and torch.cuda.is_current_stream_capturing():
            # Memory of a graph must live as long as the graph does: its own pool sees to that.
            return self._allocated(embeds, length)
        key = (embeds.shape[0], length, embeds.device, embeds.dtype)
        found = self._buffers.pop(key, None) or self._allocated(embeds, length)
        if embeds.shape[0] <= _KEPT_BATCH:
            self._buffers[key] = found
            if len(self._buffers) > _KEPT:
                self._buffers.popitem(last=False)
        return found

    def _allocated(self, embeds: Tensor, length: int) -> _Buffers:
        inner: Any = self._model.language_model.model
        shape = (
            embeds.shape[0],
            inner.config.num_key_value_heads,
            length,
            inner.layers[0].self_attn.head_dim,
        )
        return _Buffers(KeyValues(len(inner.layers), shape, embeds), rotary_of(inner, embeds, length))
