"""The FAST codec: the transform worked out by hand, and every way in which a sequence can be malformed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models

from vlaforget_ros.bench.random_pi0 import Robot, fitted, text_tokenizer
from vlaforget_ros.errors import ErrorCode, PolicyError
from vlaforget_ros.policy.config import ActionNormalisation, FastConfig, ProprioNormalisation
from vlaforget_ros.policy.fast import FastCodec
from vlaforget_ros.policy.prompt import GEMMA_BOS, state_numbers, state_prompt_ids

VOCAB_END, OPENING, END = 1000, (5, 6, 7), 9
BOUNDS = ProprioNormalisation(low=(0.0, -2.0), high=(4.0, 2.0), mask=(True, True))


def _normalisation(dims: int, low: float = -1.0, high: float = 1.0) -> ActionNormalisation:
    return ActionNormalisation(
        names=("x",) * dims,
        units=("m",) * dims,
        q01=(low,) * dims,
        q99=(high,) * dims,
        mask=(True,) * dims,
        hold=(0.0,) * dims,
    )


def _plain(characters: int = 200) -> str:
    """A FAST tokenizer without merges: one token for each coefficient."""
    made = Tokenizer(models.BPE({chr(i): i for i in range(characters)}, []))
    made.decoder = decoders.Fuse()
    return str(made.to_str())


def _codec(
    dims: int = 1, chunk: int = 2, lowest: int = -100, low: float = -1.0, high: float = 1.0, most: int = 64
) -> FastCodec:
    fast = FastConfig(
        chunk=chunk, proprio=BOUNDS, state_slots=2, bpe=_plain(), lowest=lowest, action_tokens=most
    )
    return FastCodec(_normalisation(dims, low, high), fast, OPENING, END, VOCAB_END)


def _ids(*coefficients: int) -> list[int]:
    return [VOCAB_END - 1 - (coefficient + 100) for coefficient in coefficients]


def test_a_chunk_of_two_worked_out_by_hand() -> None:
    """DCT of (a, b): (a + b) / sqrt 2 and (a - b) / sqrt 2; times 10 and rounded for a = 0.5, b = 0.1: 4 and 3."""
    codec = _codec()
    (tokens,) = codec.encode(np.array([[0.5, 0.1]]))
    assert tokens.tolist() == [*OPENING, *_ids(4, 3), END]
    expected = np.array([7.0, 1.0]) / (10 * np.sqrt(2))
    np.testing.assert_allclose(codec.decode(tokens), expected, atol=1e-6)


def test_coefficients_of_all_dimensions_come_by_frequency() -> None:
    codec = _codec(dims=2)
    # First step (1, 0), second step (1, 0): only the mean of the first dimension is not zero.
    (tokens,) = codec.encode(np.array([[1.0, 0.0, 1.0, 0.0]]))
    assert tokens[len(OPENING) : -1].tolist() == _ids(14, 0, 0, 0)


def test_values_are_between_the_bounds_of_the_statistics() -> None:
    codec = _codec(low=2.0, high=4.0)
    (tokens,) = codec.encode(np.array([[4.0, 4.0]]))
    assert tokens[len(OPENING) : -1].tolist() == _ids(14, 0)
    np.testing.assert_allclose(codec.decode(tokens), 3.0 + 1.4 / np.sqrt(2), atol=1e-6)


def test_fitted_tokenizer_gives_back_what_it_was_given() -> None:
    robot = Robot()
    bpe, lowest = fitted(robot)
    fast = FastConfig(chunk=8, proprio=BOUNDS, state_slots=2, bpe=bpe.to_str(), lowest=lowest)
    codec = FastCodec(_normalisation(7), fast, OPENING, END, VOCAB_END)
    rng = np.random.default_rng(1)
    times = np.linspace(0, 1, 8)[None, :, None]
    chunks = (rng.uniform(-1, 1, (20, 1, 7)) * np.cos(times * rng.uniform(0, 6, (20, 1, 7)))).reshape(20, -1)
    tokens = codec.encode(chunks)
    back = np.stack([codec.decode(row) for row in tokens])
    # Rounding to a tenth in each of eight coefficients.
    assert np.abs(back - chunks).max() < 0.05 * 8**0.5
    assert tokens.shape[1] < 60 + len(OPENING)
    counts = codec.labelled(tokens).sum(axis=1)
    assert counts.max() == tokens.shape[1]
    assert counts.min() < counts.max()
    assert all(row[count - 1] == END for row, count in zip(tokens, counts, strict=True))


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ([*OPENING, *_ids(4, 3)], "no '|' within"),
        ([*OPENING[:2], *_ids(4, 3), END], "does not begin with"),
        ([*_ids(4, 3), END], "does not begin with"),
        ([*OPENING, *_ids(4), END], "1 coefficients, a chunk has 2"),
        ([*OPENING, *_ids(4, 3, 2), END], "3 coefficients, a chunk has 2"),
        ([*OPENING, *_ids(4), 11, *_ids(3), END], "a token that is no action"),
        ([*OPENING, *_ids(4), VOCAB_END, END], "a token that is no action"),
        ([*OPENING, END], "0 coefficients"),
        ([END], "does not begin with"),
    ],
)
def test_malformed_sequences_are_faults(tokens: list[int], words: str) -> None:
    with pytest.raises(PolicyError) as caught:
        _codec().decode(np.array(tokens))
    assert caught.value.code == ErrorCode.POLICY_NOT_AN_ACTION_TOKEN
    assert words in caught.value.message


def test_bytes_that_are_no_character_are_a_fault() -> None:
    """A byte-level tokenizer can be cut within a character: what it then writes would be a coefficient of 65533."""
    bpe, lowest = fitted(Robot(dims=1, chunk=2))
    fast = FastConfig(chunk=2, proprio=BOUNDS, state_slots=2, bpe=bpe.to_str(), lowest=lowest)
    codec = FastCodec(_normalisation(1), fast, OPENING, END, VOCAB_END)
    half = bpe.token_to_id("Â")
    with pytest.raises(PolicyError, match="malformed"):
        codec.decode(np.array([*OPENING, VOCAB_END - 1 - half, VOCAB_END - 1 - half, END]))


def test_what_follows_the_end_is_not_looked_at() -> None:
    codec = _codec()
    tokens = [*OPENING, *_ids(4, 3), END]
    np.testing.assert_array_equal(codec.decode(np.array([*tokens, 11, 12])), codec.decode(np.array(tokens)))


@pytest.mark.parametrize("value", [1e3, 1e6])
def test_an_action_far_outside_of_the_statistics_is_refused(value: float) -> None:
    with pytest.raises(PolicyError, match="cannot write this action down") as caught:
        _codec().encode(np.array([[value, 0.0]]))
    assert caught.value.code == ErrorCode.POLICY_BAD_PARAMETER


def test_an_action_with_too_many_tokens_is_refused() -> None:
    with pytest.raises(PolicyError, match="at most 5 tokens"):
        _codec(most=5).encode(np.array([[0.5, 0.1]]))


def test_a_value_that_is_no_number_is_refused() -> None:
    with pytest.raises(PolicyError) as caught:
        _codec().encode(np.array([[np.nan, 0.0]]))
    assert caught.value.code == ErrorCode.POLICY_NON_FINITE_ACTION


def test_bins_are_fast_ids_and_then_words() -> None:
    codec = _codec()
    tokens = np.array([[*OPENING, *_ids(-100, 99), END]])
    bins = codec.bins_of(torch.from_numpy(tokens))
    assert bins.tolist() == [[201, 202, 203, 0, 199, 200]]
    assert codec.words == (END, *OPENING)
    assert codec.bins == 204
    assert codec.is_motion(bins).tolist() == [[False, False, False, True, True, False]]


def test_fast_tokens_and_words_must_not_overlap() -> None:
    fast = FastConfig(chunk=2, proprio=BOUNDS, state_slots=2, bpe=_plain())
    with pytest.raises(PolicyError, match="overlap") as caught:
        FastCodec(_normalisation(1), fast, (VOCAB_END - 5,), END, VOCAB_END)
    assert caught.value.code == ErrorCode.POLICY_BAD_CHECKPOINT


def test_the_state_is_told_in_256_steps() -> None:
    fast = FastConfig(chunk=2, proprio=BOUNDS, state_slots=4, bpe=_plain())
    assert state_numbers(np.array([0.0, 2.0]), fast) == [0, 255, 128, 128]
    assert state_numbers(np.array([2.0, 0.0]), fast) == [128, 128, 128, 128]
    assert state_numbers(np.array([-1.0, 9.0]), fast) == [-1, 255, 128, 128]


def test_the_prompt_is_lerobots() -> None:
    tokenizer = text_tokenizer(("pick up the red block",))
    fast = FastConfig(chunk=2, proprio=BOUNDS, state_slots=3, bpe=_plain())
    ids = state_prompt_ids(tokenizer, " Pick up_the\nred block ", np.array([0.0, 2.0]), fast)
    bos = tokenizer.token_to_id(GEMMA_BOS)
    assert (ids[0], ids[-1]) == (bos, bos)
    text = tokenizer.decode(list(ids[1:-1]), skip_special_tokens=False)
    assert text == "Task: Pick up the red block, State: 0 255 128;\n"


def test_a_prompt_that_upstream_would_cut_is_refused() -> None:
    tokenizer = text_tokenizer(("pick",))
    fast = FastConfig(chunk=2, proprio=BOUNDS, state_slots=3, prompt_tokens=40, bpe=_plain())
    with pytest.raises(PolicyError, match="do not fit") as caught:
        state_prompt_ids(tokenizer, "fetch " * 20, np.zeros(2), fast)
    assert caught.value.code == ErrorCode.POLICY_UNKNOWN_INSTRUCTION
    with pytest.raises(PolicyError, match="empty"):
        state_prompt_ids(tokenizer, " \n", np.zeros(2), fast)
