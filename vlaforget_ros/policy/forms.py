"""The two forms in which a network gives an action: tokens one after the other, or a chunk of numbers at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np
from torch import Tensor

from vlaforget_ros.errors import ErrorCode, PolicyError
from vlaforget_ros.policy.actions import ActionCodec
from vlaforget_ros.policy.decoding import Decoder
from vlaforget_ros.policy.labels import action_log_probs, gather_positions
from vlaforget_ros.policy.model import OpenVla
from vlaforget_ros.policy.oft import END_ID, OpenVlaOft


class Form(Protocol):
    """What a policy must know of the form."""

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
        """What stands behind the prompt while training, for an action's tokens (A,)."""
        ...

    def logits(self, pixels: Tensor, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """(N, A, ...) that predict each number of the action."""
        ...

    def log_probs(self, logits: Tensor) -> Tensor:
        """(N, A, B) log-probabilities of the bins, lowest first."""
        ...

    def scaled(self, states: np.ndarray | None) -> Tensor | None:
        """(N, P) the robot's states as the network is told them."""
        ...


class TokenForm:
    """OpenVLA: as many tokens as an action has numbers.

    Args:
        model: the network.
        codec: of its actions.
        checked: leading tokens that are looked for in the whole vocabulary.
    """

    def __init__(self, model: OpenVla, codec: ActionCodec, checked: int) -> None:
        self._model, self._codec = model, codec
        self.run = partial(Decoder(model, codec.tokens, checked).generate, count=codec.dims)

    def action(self, answer: np.ndarray) -> np.ndarray:
        return self._codec.decode(answer)

    def tokens(self, answer: np.ndarray) -> tuple[int, ...]:
        return tuple(int(token) for token in answer)

    def tail(self, tokens: np.ndarray) -> list[int]:
        return [int(token) for token in tokens]

    def logits(self, pixels: Tensor, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
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
    """

    def __init__(self, model: OpenVlaOft, codec: ActionCodec) -> None:
        self._model, self._codec = model, codec
        self.run = model.act

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

    def logits(self, pixels: Tensor, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        model = self._model
        return model.laplace(model.chunk(model.embed(model.look(pixels), ids), positions))

    def log_probs(self, logits: Tensor) -> Tensor:
        return logits.log_softmax(dim=-1)

    def scaled(self, states: np.ndarray | None) -> Tensor | None:
        return None if states is None else self._model.scaled(states)


def form_of(model: OpenVla, codec: ActionCodec, checked: int) -> Form:
    """The form of a network; ``checked`` as in :class:`TokenForm`."""
    return ChunkForm(model, codec) if isinstance(model, OpenVlaOft) else TokenForm(model, codec, checked)
