"""The library's own way to an action: what the serving engine is timed against, on the same weights.

A PEFT adapter is active in every path, and images go through the network's own vision and projector.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig

from vlaforget_ros.policy.images import pixel_values
from vlaforget_ros.policy.policy import VlaPolicy

Act = Callable[[np.ndarray], tuple[int, ...]]


def paths(policy: VlaPolicy, adapter: Path, instruction: str) -> dict[str, Act]:
    """Ways from what the cameras see, as :func:`noise`, to the tokens of an action.

    Args:
        policy: each path gets a twin of it, with the same weights.
        adapter: folder of a PEFT adapter.
        instruction: what the policy is told.

    Returns:
        ``plain``; of pi0-FAST also ``loop``, of the others ``narrow``.
    """
    if policy.config.oft is not None:
        return {
            "plain": _pass(policy.twin(), adapter, instruction),
            "narrow": _pass(policy.twin(), adapter, instruction, narrow=True),
        }
    if policy.config.fast is None:
        return {
            "plain": _generate(policy.twin(), adapter, instruction),
            "narrow": _generate(policy.twin(), adapter, instruction, narrow=True),
        }
    return {
        "plain": _generate_fast(policy.twin(), adapter, instruction),
        "loop": _loop_fast(policy.twin(), adapter, instruction),
    }


def noise(policy: VlaPolicy, seed: int) -> np.ndarray:
    """An image (H, W, 3) uint8 of the policy's size; of several cameras (images, H, W, 3)."""
    return np.random.default_rng(seed).integers(0, 256, policy.config.view_shape, dtype=np.uint8)


def _network(policy: VlaPolicy, adapter: Path) -> Any:
    import peft

    return peft.PeftModel.from_pretrained(policy.model, str(adapter)).eval().base_model.model


def _generate(policy: VlaPolicy, adapter: Path, instruction: str, narrow: bool = False) -> Act:
    network = _network(policy, adapter)
    language, count = network.language_model, policy.codec.dims
    prompt = policy.encode(noise(policy, 0)[None], [instruction], np.zeros((1, count))).input_ids[:, :-count]
    words = network.words(prompt)
    first = _narrow(language, policy.codec.tokens) if narrow else 0
    settings = GenerationConfig(max_new_tokens=count, do_sample=False, pad_token_id=0)

    @torch.inference_mode()
    def act(image: np.ndarray) -> tuple[int, ...]:
        seen = network.look(pixel_values(image[None], policy.config, policy.device)).to(words.dtype)
        embeds = torch.cat([words[:, :1], seen, words[:, 1:]], dim=1)
        tokens = language.generate(inputs_embeds=embeds, generation_config=settings)[0].cpu().numpy() + first
        policy.codec.decode(np.clip(tokens, policy.codec.tokens.start, policy.codec.tokens.stop - 1))
        return tuple(int(token) for token in tokens)

    return act


def _narrow(language: Any, tokens: range) -> int:
    """Leave ``generate`` no words but the action tokens, so that it computes the LM head for these only.

    Args:
        language: the library's model; gets tables of its own.
        tokens: ids of the action tokens.

    Returns:
        the id of the first: what is generated counts from there.
    """
    table, head = language.get_input_embeddings().weight, language.lm_head.weight
    rows = slice(tokens.start, tokens.stop)
    language.set_input_embeddings(nn.Embedding.from_pretrained(table[rows]))
    language.lm_head = nn.Linear(head.shape[1], len(tokens), bias=False, device="meta")
    language.lm_head.weight = nn.Parameter(head[rows], requires_grad=False)
    return tokens.start


def _pass(policy: VlaPolicy, adapter: Path, instruction: str, narrow: bool = False) -> Act:
    """One pass over the empty slots of a chunk, as upstream's OpenVLA-OFT decides it.

    Args:
        policy: of its own.
        adapter: folder of a PEFT adapter.
        instruction: what the policy is told.
        narrow: without the LM head, which upstream computes at all positions and nothing reads.
    """
    network, codec = _network(policy, adapter), policy.codec
    state = policy.config.zero_state
    states = None if state is None else state[None]
    batch = policy.encode(noise(policy, 0)[None], [instruction], np.zeros((1, codec.dims)), states)
    language = network.language_model.model if narrow else network.language_model

    @torch.inference_mode()
    def act(image: np.ndarray) -> tuple[int, ...]:
        seen = network.look(pixel_values(image[None], policy.config, policy.device), batch.states)
        embeds = network.embed(seen, batch.input_ids)
        mask = network.seen(embeds.shape[1], batch.action_positions)
        states = language(inputs_embeds=embeds, attention_mask=mask, output_hidden_states=True).hidden_states
        slots = states[-1][:, batch.action_positions[0]]
        values = network.action_head(slots)[0].float().cpu().numpy()
        return tuple(int(token) for token in codec.encode(codec.robot_units(values.astype(np.float64))))

    return act


class _Prefix:
    """Image and prompt of a pi0-FAST policy, and the first token that follows them.

    Image and prompt look at each other, which ``generate`` knows no argument for: they go through the model in a
    call of their own, with that mask, and fill its cache.
    """

    def __init__(self, policy: VlaPolicy, adapter: Path, instruction: str) -> None:
        fast = policy.config.fast
        if fast is None:
            raise ValueError("not a pi0-FAST policy")
        self.network = _network(policy, adapter)
        self.most = fast.action_tokens
        self.end = policy.codec.words[0]
        self._policy = policy
        state = policy.config.zero_state
        states = None if state is None else state[None]
        batch = policy.encode(noise(policy, 0)[None], [instruction], np.zeros((1, policy.codec.dims)), states)
        length = int(batch.action_positions[0, 0]) + 1 - policy.config.image_tokens
        self._prompt = batch.input_ids[:, :length]

    def read(self, image: np.ndarray) -> tuple[Tensor, DynamicCache, Tensor]:
        """Embeddings (1, L, D), the cache that holds them, the first token (1, 1)."""
        pixels = pixel_values(image[None], self._policy.config, self._policy.device)
        embeds = self.network.embed(self.network.look(pixels), self._prompt)
        length = embeds.shape[1]
        seen = torch.ones(1, 1, length, length, dtype=torch.bool, device=embeds.device)
        cache = DynamicCache(config=self.network.language_model.config)
        return embeds, cache, self.next(embeds, cache, seen)

    def next(self, embeds: Tensor, cache: DynamicCache, seen: Tensor | None = None) -> Tensor:
        """The token (1, 1) that follows ``embeds``."""
        language = self.network.language_model
        output = language.model(
            inputs_embeds=embeds, attention_mask=seen, past_key_values=cache, use_cache=True
        )
        found: Tensor = language.lm_head(output.last_hidden_state[:, -1:]).argmax(dim=-1)
        return found


def _generate_fast(policy: VlaPolicy, adapter: Path, instruction: str) -> Act:
    prefix = _Prefix(policy, adapter, instruction)

    @torch.inference_mode()
    def act(image: np.ndarray) -> tuple[int, ...]:
        embeds, cache, first = prefix.read(image)
        if int(first) == prefix.end:
            return (prefix.end,)
        # What the cache holds already is not computed again: `generate` begins behind it.
        tokens = prefix.network.language_model.generate(
            inputs_embeds=torch.cat([embeds, prefix.network.words(first)], dim=1),
            past_key_values=cache,
            max_new_tokens=prefix.most - 1,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=prefix.end,
        )
        return (int(first), *(int(token) for token in tokens[0]))

    return act


def _loop_fast(policy: VlaPolicy, adapter: Path, instruction: str) -> Act:
    prefix = _Prefix(policy, adapter, instruction)

    @torch.inference_mode()
    def act(image: np.ndarray) -> tuple[int, ...]:
        _, cache, token = prefix.read(image)
        tokens = [int(token)]
        while len(tokens) < prefix.most and tokens[-1] != prefix.end:
            token = prefix.next(prefix.network.words(token), cache)
            tokens.append(int(token))
        return tuple(tokens)

    return act
