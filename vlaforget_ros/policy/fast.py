"""FAST: a chunk of actions as a few tokens (Pertsch et al. 2025, arXiv 2501.09747).

Each dimension of the chunk is transformed over time (orthonormal DCT-II), multiplied by a scale and rounded; the
coefficients, lowest frequency of all dimensions first, are written as characters and compressed by byte-pair encoding.
In the sequence of pi0-FAST they stand between words: ``Action: `` and ``|``.

Upstream decodes what is malformed all the same: too short is padded, too long is cut, anything else becomes zeros,
which for an arm that is told positions is a motion. Here it is a fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.fft import dct, idct
from tokenizers import Tokenizer

from vlaforget_ros.errors import ErrorCode, PolicyError
from vlaforget_ros.policy.actions import ActionCodec
from vlaforget_ros.policy.config import ActionNormalisation, FastConfig

OPENING, END = "Action: ", "|"
# What a decoder of bytes writes for bytes that are no character.
_NO_CHARACTER = "\N{REPLACEMENT CHARACTER}"
# Above it no number is a character.
_LARGEST = 0xD7FF


class FastCodec(ActionCodec):
    """Encodes (…, A) robot-unit chunks as tokens of varying number, and one sequence back.

    Token id = ``vocab_end - 1 - fast id``, as with bins. The words around them have places of their own behind the FAST
    ids: in what :meth:`bins_of` gives, numbers from ``fast_ids`` on are words. Neighbouring ids are no neighbouring
    motions.

    Args:
        normalisation: per-dimension statistics of one control tick.
        config: chunk, scale and tokenizer.
        opening: ids of the words before the action, as the text tokenizer has them.
        end: id of the word behind it.
        vocab_end: one past the id of FAST token 0.

    Raises:
        PolicyError: 207 for a tokenizer with more tokens than there is room for.
    """

    ordered = False

    def __init__(
        self,
        normalisation: ActionNormalisation,
        config: FastConfig,
        opening: Sequence[int],
        end: int,
        vocab_end: int,
    ) -> None:
        self._bpe = Tokenizer.from_str(config.bpe)
        self.fast_ids = int(self._bpe.get_vocab_size())
        self.opening, self.end = tuple(opening), end
        self.words = (end, *sorted(set(opening)))
        super().__init__(normalisation, vocab_end, self.fast_ids + len(self.words), config.chunk)
        self._scale, self._lowest, self._most = config.scale, config.lowest, config.action_tokens
        if not opening or self.fast_ids > vocab_end or any(word in self.tokens for word in self.words):
            raise PolicyError(
                ErrorCode.POLICY_BAD_CHECKPOINT,
                "FAST tokens and words of the text tokenizer overlap",
                value=f"{self.fast_ids} FAST tokens below id {vocab_end}, words {self.words}",
                remedy="give the tokenizers that the policy was trained with",
            )

    @property
    def tokens(self) -> range:
        """Ids of the FAST tokens."""
        return range(self.vocab_end - self.fast_ids, self.vocab_end)

    def encode(self, actions: np.ndarray) -> np.ndarray:
        """Token ids (N, L) int64 of chunks (N, A): opening, FAST tokens, end; shorter rows repeat the end.

        Values are not clipped, as upstream trains.

        Raises:
            PolicyError: 201 for a non-finite value, 208 for a chunk that the FAST tokenizer cannot write down, or not
                within the most tokens of an action.
        """
        actions = np.asarray(actions, dtype=np.float64)
        if not np.all(np.isfinite(actions)):
            raise PolicyError(
                ErrorCode.POLICY_NON_FINITE_ACTION, "cannot encode an action", value=actions, limit="finite"
            )
        values = self.steps(np.where(self.mask, self._scaled(actions), actions))
        numbers = np.rint(dct(values, axis=1, norm="ortho") * self._scale).astype(np.int64) - self._lowest
        rows = [self._row(row) for row in np.maximum(numbers, 0).reshape(len(actions), -1)]
        longest = max((len(row) for row in rows), default=0)
        return np.array([row + [self.end] * (longest - len(row)) for row in rows], dtype=np.int64)

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Chunk (A,) float32 in robot units of one sequence (L,).

        Raises:
            PolicyError: 202 for a sequence that is malformed in any way.
        """
        ids = [int(token) for token in np.asarray(tokens).tolist()]
        if self.end not in ids:
            raise self._malformed(f"no {END!r} within {len(ids)} tokens", ids)
        ids = ids[: ids.index(self.end)]
        opening, ids = tuple(ids[: len(self.opening)]), ids[len(self.opening) :]
        if opening != self.opening:
            raise self._malformed(f"does not begin with {OPENING!r}", [*opening, *ids])
        if any(token not in self.tokens for token in ids):
            raise self._malformed("a token that is no action", ids)
        text = self._bpe.decode([self.vocab_end - 1 - token for token in ids], skip_special_tokens=False)
        if len(text) != self.dims or _NO_CHARACTER in text:
            raise self._malformed(f"{len(text)} coefficients, a chunk has {self.dims}", ids)
        numbers = (np.array([ord(character) for character in text]) + self._lowest) / self._scale
        return self.robot_units(idct(numbers.reshape(self.chunk, -1), axis=0, norm="ortho").reshape(-1))

    def labelled(self, tokens: np.ndarray) -> np.ndarray:
        """Which of (N, L) tokens of :meth:`encode` belong to the sequence: up to the first end."""
        return np.cumsum(np.cumsum(tokens == self.end, axis=-1), axis=-1) <= 1

    def bins_of(self, tokens: Any) -> Any:
        """FAST ids of tokens; words come behind them."""
        found = super().bins_of(tokens)
        for place, word in enumerate(self.words):
            # Arithmetic, not where(): arrays and tensors alike.
            found = found + (tokens == word) * (self.fast_ids + place - found)
        return found

    def is_motion(self, bins: Any) -> Any:
        return bins < self.fast_ids

    def _row(self, numbers: np.ndarray) -> list[int]:
        text = "".join(map(chr, np.minimum(numbers, _LARGEST)))
        ids = self._bpe.encode(text, add_special_tokens=False).ids
        tokens = [*self.opening, *(self.vocab_end - 1 - i for i in ids), self.end]
        lossy = numbers.max() > _LARGEST or self._bpe.decode(ids, skip_special_tokens=False) != text
        if lossy or len(tokens) > self._most:
            raise PolicyError(
                ErrorCode.POLICY_BAD_PARAMETER,
                "the FAST tokenizer cannot write this action down",
                value=f"coefficients {numbers.min() + self._lowest}..{numbers.max() + self._lowest}, {len(ids)} tokens",
                limit=f"at most {self._most} tokens, coefficients it was fitted on",
                remedy="check the statistics of the actions: these lie far outside of them",
            )
        return tokens

    def _malformed(self, what: str, ids: list[int]) -> PolicyError:
        return PolicyError(
            ErrorCode.POLICY_NOT_AN_ACTION_TOKEN,
            f"the model generated a malformed action: {what}",
            value=ids,
            limit=f"{OPENING!r}, ids {self.tokens.start}..{self.tokens.stop - 1}, {END!r}",
            remedy="the arm holds; roll the adapter back if this repeats",
        )
