"""The forms in which a network is asked and answers: one token for each number, a chunk of numbers, FAST tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Protocol

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from vlaforget_ros.errors import ErrorCode, PolicyError
from vlaforget_ros.policy.actions import ActionCodec
from vlaforget_ros.policy.config import ActionNormalisation, PolicyConfig
from vlaforget_ros.policy.decoding import Decoder, Wrap, as_it_is
from vlaforget_ros.policy.fast import END, OPENING, FastCodec
from vlaforget_ros.policy.labels import action_log_probs, gather_positions
from vlaforget_ros.policy.model import OpenVla
from vlaforget_ros.policy.oft import END_ID, OpenVlaOft
from vlaforget_ros.policy.pi0 import Pi0Fast
from vlaforget_ros.policy.prompt import prompt_ids, state_prompt_ids, word_ids


class Form(Protocol):
    """What a policy must know of the form."""

    @property
    def recordable(self) -> bool:
        """Whether ``run`` does the same work for every input of one shape."""
        ...

    def prompt(self, instruction: str, state: np.ndarray | None) -> tuple[int, ...]:
        """Token ids of the prompt; the state is (P,) in the robot's units. Raises PolicyError 206."""
        ...

    @property
    def run(self) -> Callable[..., Tensor]:
        """Pixels, prompt ids and perhaps scaled states to (N, A), what :meth:`action` reads."""
        ...

    def action(self, answer: np.ndarray) -> np.ndarray:
        """(A,) in robot units. Raises PolicyError 201 or 202."""
        ...

    def tokens(self, answer: np.ndarray) -> tuple[int, ...]:
        """The A tokens of an answer, whether they are actions or not; none where it is not finite."""
        ...

    def tail(self, tokens: np.ndarray) -> list[int]:
        """What stands behind the prompt while training, for an action's tokens (A,), padding included."""
        ...

    def logits(
        self, pixels: Tensor, ids: Tensor, mask: Tensor, positions: Tensor, states: Tensor | None = None
    ) -> Tensor:
        """(N, A, ...) that predict each number of the action; ``states`` as :meth:`scaled` gives them."""
        ...

    def log_probs(self, logits: Tensor) -> Tensor:
        """(N, A, B) log-probabilities of the bins, lowest first."""
        ...

    def scaled(self, states: np.ndarray | None) -> Tensor | None:
        """(N, P) the robot's states as the network is told them."""
        ...

    def rewrite(self, wrap: Wrap | None) -> None:
        """Run other functions that do the same, as ``wrap`` makes them; None: its own."""
        ...

    def rehearse(self, *inputs: Tensor) -> None:
        """Call each of these functions as :attr:`run` would on these inputs."""
        ...


class TokenForm:
    """OpenVLA: as many tokens as an action has numbers.

    Args:
        model: the network.
        codec: of its actions.
        tokenizer: of its prompts.
        checked: leading tokens that are looked for in the whole vocabulary.
    """

    recordable = True

    def __init__(self, model: OpenVla, codec: ActionCodec, tokenizer: Tokenizer, checked: int) -> None:
        self._model, self._codec = model, codec
        self._prompt = _prompts(tokenizer, model.config)
        decoder = Decoder(model, codec.tokens, checked)
        self.run = partial(decoder.generate, count=codec.dims)
        self.rewrite, self.rehearse = decoder.rewrite, partial(decoder.rehearse, count=codec.dims)

    def prompt(self, instruction: str, state: np.ndarray | None) -> tuple[int, ...]:
        return self._prompt(instruction)

    def action(self, answer: np.ndarray) -> np.ndarray:
        return self._codec.decode(answer)

    def tokens(self, answer: np.ndarray) -> tuple[int, ...]:
        return tuple(int(token) for token in answer)

    def tail(self, tokens: np.ndarray) -> list[int]:
        return [int(token) for token in tokens]

    def logits(
        self, pixels: Tensor, ids: Tensor, mask: Tensor, positions: Tensor, states: Tensor | None = None
    ) -> Tensor:
        return gather_positions(self._model(pixels, ids, mask), positions)

    def log_probs(self, logits: Tensor) -> Tensor:
        return action_log_probs(logits, self._codec)

    def scaled(self, states: np.ndarray | None) -> Tensor | None:
        return None


class ChunkForm:
    """OpenVLA-OFT: a chunk in one pass; there is nothing that could be no action token.

    Args:
        model: the network.
        codec: of its actions.
        tokenizer: of its prompts.
    """

    recordable = True

    def __init__(self, model: OpenVlaOft, codec: ActionCodec, tokenizer: Tokenizer) -> None:
        self._model, self._codec = model, codec
        self._prompt = _prompts(tokenizer, model.config)
        self.rewrite(None)

    @torch.inference_mode()
    def run(self, *inputs: Tensor) -> Tensor:
        return self._act(*inputs)

    def rewrite(self, wrap: Wrap | None) -> None:
        self._act = (wrap or as_it_is)(self._model.decide, {1: 1})

    def rehearse(self, *inputs: Tensor) -> None:
        self.run(*inputs)

    def prompt(self, instruction: str, state: np.ndarray | None) -> tuple[int, ...]:
        return self._prompt(instruction)

    def action(self, answer: np.ndarray) -> np.ndarray:
        if not np.all(np.isfinite(answer)):
            raise PolicyError(
                ErrorCode.POLICY_NON_FINITE_ACTION, "the action head gave no number", value=answer
            )
        return self._codec.robot_units(answer.astype(np.float64))

    def tokens(self, answer: np.ndarray) -> tuple[int, ...]:
        if not np.all(np.isfinite(answer)):
            return ()
        return tuple(int(token) for token in self._codec.encode(self.action(answer)))

    def tail(self, tokens: np.ndarray) -> list[int]:
        return [*[self._model.empty_id] * len(tokens), END_ID]

    def logits(
        self, pixels: Tensor, ids: Tensor, mask: Tensor, positions: Tensor, states: Tensor | None = None
    ) -> Tensor:
        model = self._model
        return model.laplace(model.chunk(model.embed(model.look(pixels, states), ids), positions))

    def log_probs(self, logits: Tensor) -> Tensor:
        return logits.log_softmax(dim=-1)

    def scaled(self, states: np.ndarray | None) -> Tensor | None:
        return None if states is None else self._model.scaled(states)


class FastForm:
    """pi0-FAST: as many tokens as a chunk needs, between words; the robot's state is part of the prompt.

    Args:
        model: the network.
        codec: of its actions.
        tokenizer: of its prompts.
        checked: leading tokens that are looked for in the whole vocabulary.
    """

    # How many tokens an action has is known when it ends.
    recordable = False

    def __init__(self, model: Pi0Fast, codec: FastCodec, tokenizer: Tokenizer, checked: int) -> None:
        self._model, self._codec, self._tokenizer = model, codec, tokenizer
        self._decoder = Decoder(model, codec.tokens, checked, codec.words)
        self.rewrite = self._decoder.rewrite
        self.rehearse = partial(self._decoder.rehearse, count=model.fast.action_tokens)
        self._padding = int(model.config.language["pad_token_id"])

    @torch.inference_mode()
    def run(self, pixels: Tensor, ids: Tensor) -> Tensor:
        """Prompts may differ in length: they are padded on the right."""
        model = self._model
        embeds = model.embed(self._decoder.look(pixels), ids)
        missing = (ids == self._padding).flip(-1).cumprod(-1).sum(-1)
        if not bool(missing.any()):
            return self._decoder.decode(embeds, model.fast.action_tokens)
        # The padding goes to the front, so that all actions begin at one position.
        places = (torch.arange(embeds.shape[1], device=ids.device) - missing[:, None]) % embeds.shape[1]
        moved = embeds.gather(1, places[..., None].expand_as(embeds))
        return self._decoder.decode(moved, model.fast.action_tokens, missing)

    def prompt(self, instruction: str, state: np.ndarray | None) -> tuple[int, ...]:
        fast = self._model.fast
        told = np.zeros(len(fast.proprio.low)) if state is None else np.asarray(state)
        return state_prompt_ids(self._tokenizer, instruction, told, fast)

    def action(self, answer: np.ndarray) -> np.ndarray:
        return self._codec.decode(answer)

    def tokens(self, answer: np.ndarray) -> tuple[int, ...]:
        found = [int(token) for token in answer]
        return tuple(found[: found.index(self._codec.end) + 1] if self._codec.end in found else found)

    def tail(self, tokens: np.ndarray) -> list[int]:
        return [int(token) for token in tokens[self._codec.labelled(tokens)]]

    def logits(
        self, pixels: Tensor, ids: Tensor, mask: Tensor, positions: Tensor, states: Tensor | None = None
    ) -> Tensor:
        return self._model.teacher(self._model.look(pixels), ids, positions)

    def log_probs(self, logits: Tensor) -> Tensor:
        return action_log_probs(logits, self._codec)

    def scaled(self, states: np.ndarray | None) -> Tensor | None:
        return None


def codec_of(config: PolicyConfig, normalisation: ActionNormalisation, tokenizer: Tokenizer) -> ActionCodec:
    """The codec of a policy's actions.

    Args:
        config: of the policy.
        normalisation: of the robot's actions.
        tokenizer: knows the words around FAST tokens.

    Raises:
        PolicyError: 207 for tokenizers that do not fit together.
    """
    if config.fast is None:
        return ActionCodec(normalisation, config.action_vocab_end, config.bins, config.chunk)
    opening, end = word_ids(tokenizer, OPENING), word_ids(tokenizer, END)
    return FastCodec(normalisation, config.fast, opening, end[-1] if end else -1, config.action_vocab_end)


def form_of(model: OpenVla, codec: ActionCodec, tokenizer: Tokenizer, checked: int) -> Form:
    """The form of a network; ``checked`` as in :class:`TokenForm`."""
    if isinstance(model, Pi0Fast) and isinstance(codec, FastCodec):
        return FastForm(model, codec, tokenizer, checked)
    if isinstance(model, OpenVlaOft):
        return ChunkForm(model, codec, tokenizer)
    return TokenForm(model, codec, tokenizer, checked)


def _prompts(tokenizer: Tokenizer, config: PolicyConfig) -> Callable[[str], tuple[int, ...]]:
    """Prompts of instructions, remembered."""

    def encoded(instruction: str) -> tuple[int, ...]:
        return tuple(prompt_ids(tokenizer, instruction, config.prompt_suffix_id))

    return lru_cache(maxsize=256)(encoded)
