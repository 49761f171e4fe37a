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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vlaforget_ros.policy.llama import KeyValues, Rotary, cached_output, rotary_of
from vlaforget_ros.policy.model import OpenVla

# Buffers that are kept: a robot has a few lengths of prompt and one or two arms. Large batches are for evaluation.
_KEPT, _KEPT_BATCH = 8, 4
# Tokens of a prompt for which there is room in the buffers of compiled functions.
_PROMPT_ROOM = 256

Wrap = Callable[[Callable[..., Tensor], Mapping[int, int]], Callable[..., Tensor]]
"""Makes another function of one. Of some arguments a dimension is told that differs from call to call."""


def as_it_is(function: Callable[..., Tensor], varying: Mapping[int, int]) -> Callable[..., Tensor]:
    """The function itself."""
    return function


@dataclass(frozen=True)
class _Buffers:
    cache: KeyValues
    rotary: Rotary
    places: Tensor


class Decoder:
    """Decodes actions with one network.

    Args:
        model: the network, in evaluation mode. Its LM head is used without the hooks of adapters.
        actions: ids of the action tokens.
        checked: how many leading tokens of an action are looked for in the whole vocabulary.
        words: ids of further tokens that an action may have; the first of them ends it.

    One thread at a time: two actions would share the buffers.
    """

    def __init__(self, model: OpenVla, actions: range, checked: int = 1, words: tuple[int, ...] = ()) -> None:
        self._model, self._actions, self._checked, self._words = model, actions, checked, words
        self.rewrite(None)
        self._buffers: OrderedDict[tuple[int, int, torch.device, torch.dtype], _Buffers] = OrderedDict()

    @torch.inference_mode()
    def generate(self, pixel_values: Tensor, input_ids: Tensor, count: int) -> Tensor:
        """Greedy tokens (B, count), deterministic; fewer where every action has ended before.

        Args:
            pixel_values: (B, 3 * towers, S, S).
            input_ids: (B, L) prompts, all of the same length.
            count: number of tokens.
        """
        return self.decode(self._model.embed(self.look(pixel_values), input_ids), count)

    def rewrite(self, wrap: Wrap | None) -> None:
        """Call other functions that do the same, as ``wrap`` makes them; None: its own.

        Buffers of the others have one length for all prompts, as long as these have no more than 256 tokens.
        """
        made = wrap or as_it_is
        self.look = made(self._model.look, {})
        self._first = made(self._first_token, {0: 1})
        self._later = made(self._later_token, {1: 0})
        self._room = 0 if wrap is None else self._model.config.image_tokens + _PROMPT_ROOM

    @torch.inference_mode()
    def rehearse(self, pixel_values: Tensor, input_ids: Tensor, count: int) -> None:
        """Call each of its functions as :meth:`generate` would, however soon an action ends."""
        embeds = self._model.embed(self.look(pixel_values), input_ids)
        start = embeds.shape[1]
        buffers = self._buffers_for(embeds, count)
        token = self._first(embeds, buffers, None, self._checked > 0)
        for whole in {self._checked > 1, count <= self._checked}:
            token = self._later(token, buffers.places[:start], buffers, None, whole)

    @torch.inference_mode()
    def decode(self, embeds: Tensor, count: int, padding: Tensor | None = None) -> Tensor:
        """As :meth:`generate`, from the embeddings (B, T, D) of image and prompt.

        Args:
            embeds: padded on the left where prompts differ in length: positions are relative.
            count: number of tokens.
            padding: (B,) how many positions of each row are padding.
        """
        start = embeds.shape[1]
        buffers = self._buffers_for(embeds, count)
        seen = None
        if padding is not None:
            seen = (buffers.places >= padding[:, None])[:, None, None]
        tokens = [self._first(embeds, buffers, seen, self._checked > 0)]
        while len(tokens) < count and not self._ended(tokens):
            before = buffers.places[: start + len(tokens) - 1]
            tokens.append(self._later(tokens[-1], before, buffers, seen, len(tokens) < self._checked))
        return torch.stack(tokens, dim=1)

    def _first_token(self, embeds: Tensor, buffers: _Buffers, seen: Tensor | None, whole: bool) -> Tensor:
        """(B,) the token behind a prompt."""
        return self._next(self._layers(embeds, 0, buffers, seen, self._model.causal_prompt), whole)

    def _later_token(
        self, token: Tensor, before: Tensor, buffers: _Buffers, seen: Tensor | None, whole: bool
    ) -> Tensor:
        """(B,) the token behind another one; the length of ``before`` is the position of that."""
        hidden = self._model.words(token)[:, None]
        return self._next(self._layers(hidden, before.shape[0], buffers, seen, False), whole)

    def _ended(self, tokens: list[Tensor]) -> bool:
        # Only where a word ends an action: to look at it, the host waits for the device.
        return bool(self._words) and bool((torch.stack(tokens) == self._words[0]).any(dim=0).all())

    def _layers(
        self, hidden: Tensor, start: int, buffers: _Buffers, seen: Tensor | None, causal: bool
    ) -> Tensor:
        """(B, D) what the last position becomes, normed."""
        shown = None if seen is None else seen[..., : start + hidden.shape[1]]
        inner: Any = self._model.language_model.model
        last = len(inner.layers) - 1
        for place, block in enumerate(inner.layers):
            hidden = cached_output(
                block,
                place,
                hidden,
                start,
                buffers.rotary,
                buffers.cache,
                place == last,
                causal=causal,
                seen=shown,
            )
        normed: Tensor = inner.norm(hidden[:, -1])
        return normed

    def _next(self, hidden: Tensor, whole: bool) -> Tensor:
        """(B,) the likeliest token, in the whole vocabulary or among those of an action."""
        head = self._model.language_model.lm_head
        if whole:
            found: Tensor = functional.linear(hidden, head.weight, head.bias).argmax(dim=-1)
            return found
        rows = slice(self._actions.start, self._actions.stop)
        logits = _rows(head, hidden, rows)
        if not self._words:
            return logits.argmax(dim=-1) + self._actions.start
        words = list(self._words)
        place = torch.cat([logits, _rows(head, hidden, words)], dim=-1).argmax(dim=-1)
        ids = torch.tensor([*self._actions, *words], device=hidden.device)
        return ids[place]

    def _buffers_for(self, embeds: Tensor, count: int) -> _Buffers:
        length = max(embeds.shape[1], self._room) + count - 1
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
        places = torch.arange(length, device=embeds.device)
        return _Buffers(KeyValues(len(inner.layers), shape, embeds), rotary_of(inner, embeds, length), places)


def _rows(head: Any, hidden: Tensor, rows: slice | list[int]) -> Tensor:
    """(B, rows) logits of some tokens."""
    return functional.linear(hidden, head.weight[rows], None if head.bias is None else head.bias[rows])
