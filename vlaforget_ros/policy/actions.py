"""Continuous actions ↔ the 256 action tokens at the end of the vocabulary (OpenVLA, section 3.2)."""

from __future__ import annotations

from typing import Any

import numpy as np

from vlaforget_ros.errors import ErrorCode, PolicyError
from vlaforget_ros.policy.config import ActionNormalisation


class ActionCodec:
    """Encodes (…, A) robot-unit actions as token ids and back.

    Bins are ``linspace(-1, 1, bins)``; a value falls into one of ``bins - 1`` intervals whose centre is decoded.
    Token id = ``vocab_end - digitize(value)``, so ids lie in [vocab_end - bins, vocab_end - 1].

    An action is what one inference decides. For a policy with chunks that is several control ticks, one after the
    other in one vector: A = ``chunk`` times the dimensions of the robot's action; :meth:`steps` takes it apart.

    Args:
        normalisation: per-dimension statistics of one control tick.
        vocab_end: one past the last action token (32000 in OpenVLA).
        bins: number of bin edges and of action tokens.
        chunk: control ticks of an action.
    """

    # Whether neighbouring bins are neighbouring motions.
    ordered = True
    # Ids of words that belong to an action, in the order of their bins, which are the last ones.
    words: tuple[int, ...] = ()

    def __init__(
        self, normalisation: ActionNormalisation, vocab_end: int, bins: int = 256, chunk: int = 1
    ) -> None:
        self.bins = bins
        self.vocab_end = vocab_end
        self.chunk = chunk
        self.edges = np.linspace(-1.0, 1.0, bins)
        self.centres = (self.edges[:-1] + self.edges[1:]) / 2.0
        self.low = np.tile(normalisation.q01, chunk)
        self.high = np.tile(normalisation.q99, chunk)
        self.mask = np.tile(normalisation.mask, chunk)
        self.hold = np.tile(normalisation.hold, chunk).astype(np.float32)
        # Where the gripper of LIBERO's convention is: the last dimension of each step.
        last = np.arange(len(normalisation.q01)) == len(normalisation.q01) - 1
        self._libero = np.tile(last & (normalisation.gripper == "libero"), chunk)

    @property
    def dims(self) -> int:
        """Numbers of an action, A."""
        return len(self.low)

    @property
    def tokens(self) -> range:
        """Ids of the action tokens."""
        return range(self.vocab_end - self.bins, self.vocab_end)

    @property
    def span(self) -> np.ndarray:
        """(A,) distance between the bounds of each dimension, the unit of the action distance."""
        span = np.where(self.mask, self.high - self.low, 1.0)
        return np.where(self._libero, 2.0, span)

    def steps(self, action: np.ndarray) -> np.ndarray:
        """(…, chunk, A / chunk) the control ticks of actions (…, A)."""
        return action.reshape(*action.shape[:-1], self.chunk, -1)

    def encode(self, actions: np.ndarray) -> np.ndarray:
        """Token ids (…, A) int64 of actions (…, A) in robot units; values outside the bounds are clipped.

        Raises:
            PolicyError: 201 for a non-finite value.
        """
        actions = np.asarray(actions, dtype=np.float64)
        if not np.all(np.isfinite(actions)):
            raise PolicyError(
                ErrorCode.POLICY_NON_FINITE_ACTION, "cannot encode an action", value=actions, limit="finite"
            )
        actions = np.where(self._libero, (1.0 - actions) / 2.0, actions)
        value = np.clip(np.where(self.mask, self._scaled(actions), actions), -1.0, 1.0)
        return self.vocab_end - np.digitize(value, self.edges).astype(np.int64)

    def labelled(self, tokens: np.ndarray) -> np.ndarray:
        """Which of the tokens (…, A) of :meth:`encode` belong to the action: all of them."""
        return np.ones(np.shape(tokens), dtype=bool)

    def bins_of(self, tokens: Any) -> Any:
        """Bins of token ids, arrays or tensors, in ascending order of the action's value."""
        return self.vocab_end - 1 - tokens

    def is_motion(self, bins: Any) -> Any:
        """Which bins, arrays or tensors, say how to move: all of them here; some forms have words between."""
        return bins >= 0

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Actions (…, A) float32 in robot units.

        Raises:
            PolicyError: 202 when a token is no action token. Upstream clips such tokens to the last bin, which is
                nearly full speed; here it is a fault.
        """
        tokens = np.asarray(tokens)
        if not np.all(self.is_action(tokens)):
            raise PolicyError(
                ErrorCode.POLICY_NOT_AN_ACTION_TOKEN,
                "the model generated a token that is no action",
                value=tokens.tolist(),
                limit=f"{self.vocab_end - self.bins}..{self.vocab_end - 1}",
                remedy="the arm holds; roll the adapter back if this repeats",
            )
        return self.robot_units(self.centres[np.clip(self.vocab_end - tokens - 1, 0, self.bins - 2)])

    def robot_units(self, value: np.ndarray) -> np.ndarray:
        """Actions (…, A) float32 in robot units of values (…, A) in -1..1."""
        scaled = 0.5 * (value + 1.0) * (self.high - self.low) + self.low
        found = np.where(self.mask, scaled, value).astype(np.float32)
        return np.where(self._libero, -np.sign(2.0 * found - 1.0), found)

    def _scaled(self, actions: np.ndarray) -> np.ndarray:
        scaled: np.ndarray = 2.0 * (actions - self.low) / np.where(self.mask, self.high - self.low, 1.0) - 1.0
        return scaled

    def is_action(self, tokens: np.ndarray) -> np.ndarray:
        """Which tokens are action tokens, as booleans of the same shape."""
        tokens = np.asarray(tokens)
        return (tokens >= self.vocab_end - self.bins) & (tokens < self.vocab_end)
