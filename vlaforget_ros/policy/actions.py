"""Continuous actions ↔ the 256 action tokens at the end of the vocabulary (OpenVLA, section 3.2)."""

from __future__ import annotations

import numpy as np

from vlaforget_ros.errors import ErrorCode, PolicyError
from vlaforget_ros.policy.config import ActionNormalisation


class ActionCodec:
    """Encodes (…, A) robot-unit actions as token ids and back.

    Bins are ``linspace(-1, 1, bins)``; a value falls into one of ``bins - 1`` intervals whose centre is decoded.
    Token id = ``vocab_end - digitize(value)``, so ids lie in [vocab_end - bins, vocab_end - 1].

    Args:
        normalisation: per-dimension statistics.
        vocab_end: one past the last action token (32000 in OpenVLA).
        bins: number of bin edges and of action tokens.
    """

    def __init__(self, normalisation: ActionNormalisation, vocab_end: int, bins: int = 256) -> None:
        self.bins = bins
        self.vocab_end = vocab_end
        self.edges = np.linspace(-1.0, 1.0, bins)
        self.centres = (self.edges[:-1] + self.edges[1:]) / 2.0
        self.low = np.array(normalisation.q01)
        self.high = np.array(normalisation.q99)
        self.mask = np.array(normalisation.mask)
        self.hold = np.array(normalisation.hold, dtype=np.float32)
        self._libero = normalisation.gripper == "libero"

    @property
    def dims(self) -> int:
        """Action dimensions A."""
        return len(self.low)

    @property
    def tokens(self) -> range:
        """Ids of the action tokens."""
        return range(self.vocab_end - self.bins, self.vocab_end)

    @property
    def span(self) -> np.ndarray:
        """(A,) distance between the bounds of each dimension, the unit of the action distance."""
        span = np.where(self.mask, self.high - self.low, 1.0)
        if self._libero:
            span[-1] = 2.0
        return span

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
        if self._libero:
            actions = np.concatenate([actions[..., :-1], (1.0 - actions[..., -1:]) / 2.0], axis=-1)
        scaled = 2.0 * (actions - self.low) / np.where(self.mask, self.high - self.low, 1.0) - 1.0
        value = np.clip(np.where(self.mask, scaled, actions), -1.0, 1.0)
        return self.vocab_end - np.digitize(value, self.edges).astype(np.int64)

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
        index = np.clip(self.vocab_end - tokens - 1, 0, self.bins - 2)
        value = self.centres[index]
        scaled = 0.5 * (value + 1.0) * (self.high - self.low) + self.low
        found = np.where(self.mask, scaled, value).astype(np.float32)
        if self._libero:
            found[..., -1] = -np.sign(2.0 * found[..., -1] - 1.0)
        return found

    def is_action(self, tokens: np.ndarray) -> np.ndarray:
        """Which tokens are action tokens, as booleans of the same shape."""
        tokens = np.asarray(tokens)
        return (tokens >= self.vocab_end - self.bins) & (tokens < self.vocab_end)
