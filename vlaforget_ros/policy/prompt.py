"""The prompts of OpenVLA and pi0-FAST, and the word-level tokenizer of the embedded model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from vlaforget_ros.errors import ErrorCode, PolicyError, did_you_mean
from vlaforget_ros.policy.config import FastConfig, PolicyConfig
from vlaforget_ros.policy.unusable import unusable

TOKENIZER = "tokenizer.json"

_TEMPLATE = "In: What action should the robot take to {instruction}?\nOut:"
_WORDS = Regex(r"\w+|[^\w\s]|\n")
PAD, BOS, EOS, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"
# Of a Gemma tokenizer.
GEMMA_BOS = "<bos>"
_STATE_TEMPLATE = "Task: {instruction}, State: {state};\n"
_STATE_BINS = 256
# Upstream's, for a number that never changed.
_NO_SPAN = 1e-8


def read_tokenizer(directory: Path, file: str = TOKENIZER) -> Tokenizer:
    """A tokenizer of a checkpoint. Raises PolicyError 207."""
    try:
        return Tokenizer.from_file(str(directory / file))
    except Exception as error:  # tokenizers raises bare Exception for a malformed file
        raise unusable(directory, f"{file}: {error}") from error


def prompt_text(instruction: str) -> str:
    """The prompt for an instruction, which upstream turns to lower case."""
    return _TEMPLATE.format(instruction=" ".join(instruction.lower().split()))


def build_tokenizer(instructions: Iterable[str], size: int) -> Tokenizer:
    """A word-level tokenizer that knows the prompt's and the instructions' words.

    Args:
        instructions: texts whose words are to be known.
        size: ids reserved for text; unused ones stay free.
    """
    split = pre_tokenizers.Split(pattern=_WORDS, behavior="removed", invert=True)
    words: list[str] = [PAD, BOS, EOS, UNKNOWN]
    for text in (prompt_text(""), *sorted(set(instructions))):
        for word, _ in split.pre_tokenize_str(text.lower() if text.islower() else text):
            if word not in words:
                words.append(word)
    if len(words) > size:
        raise PolicyError(
            ErrorCode.POLICY_BAD_PARAMETER,
            "too many words",
            value=len(words),
            limit=size,
            remedy="raise the size",
        )
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = split
    return tokenizer


def prompt_ids(tokenizer: Tokenizer, instruction: str, suffix_id: int | None = None) -> list[int]:
    """Token ids of the prompt, BOS first.

    Raises:
        PolicyError: 206 for an empty instruction or one with words the policy never learned.
    """
    if not instruction.strip():
        raise _empty()
    unknown_id = tokenizer.token_to_id(UNKNOWN)
    encoded = tokenizer.encode(prompt_text(instruction), add_special_tokens=False)
    if unknown_id is not None and unknown_id in encoded.ids:
        raise _unknown_words(tokenizer, instruction, unknown_id)
    _require_plain(tokenizer, instruction, encoded.ids)
    ids = [special_id(tokenizer, BOS), *encoded.ids]
    if suffix_id is not None and ids[-1] != suffix_id:
        ids.append(suffix_id)
    return ids


def state_prompt_ids(
    tokenizer: Tokenizer, instruction: str, state: np.ndarray, fast: FastConfig
) -> tuple[int, ...]:
    """Token ids of pi0-FAST's prompt: BOS, task and state in words, BOS.

    Upstream cuts a prompt that is too long, from the end, where the state is; here it is refused.

    Args:
        tokenizer: of Gemma.
        instruction: what to do.
        state: (P,) in the robot's units.
        fast: how the state is scaled, and how much fits.

    Raises:
        PolicyError: 206 for an empty instruction, or one that is too long.
    """
    text = instruction.strip().replace("_", " ").replace("\n", " ")
    if not text:
        raise _empty()
    numbers = " ".join(map(str, state_numbers(state, fast)))
    encoded = word_ids(tokenizer, _STATE_TEMPLATE.format(instruction=text, state=numbers))
    _require_plain(tokenizer, instruction, encoded)
    bos = special_id(tokenizer, GEMMA_BOS)
    if len(encoded) + 1 > fast.prompt_tokens:
        raise PolicyError(
            ErrorCode.POLICY_UNKNOWN_INSTRUCTION,
            "instruction and state do not fit into the prompt",
            value=f"{len(encoded) + 1} tokens",
            limit=f"{fast.prompt_tokens} tokens",
            remedy="say it in fewer words",
        )
    return (bos, *encoded, bos)


def state_numbers(state: np.ndarray, fast: FastConfig) -> list[int]:
    """The state as pi0-FAST is told it: 0 to 255 between its bounds, -1 below them, 128 for slots it does not have."""
    bounds = fast.proprio
    low, high = np.array(bounds.low), np.array(bounds.high)
    span = np.where(high > low, high - low, _NO_SPAN)
    scaled = np.where(bounds.mask, 2.0 * (state - low) / span - 1.0, state)
    padded = np.pad(scaled.astype(np.float32), (0, fast.state_slots - len(scaled)))
    edges = np.linspace(-1.0, 1.0, _STATE_BINS + 1)[:-1]
    found: list[int] = (np.digitize(padded, edges) - 1).tolist()
    return found


def word_ids(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """Ids of a text as it is, nothing before or behind it."""
    return tuple(tokenizer.encode(text, add_special_tokens=False).ids)


def special_id(tokenizer: Tokenizer, token: str) -> int:
    """Id of a special token. Raises PolicyError 207 where the tokenizer has none."""
    found = tokenizer.token_to_id(token)
    if found is None:
        raise PolicyError(
            ErrorCode.POLICY_BAD_CHECKPOINT,
            "the tokenizer lacks a special token",
            value=token,
            limit=f"{PAD} {BOS} {EOS}" if token == BOS else token,
            remedy="copy the tokenizer that belongs to these weights",
        )
    return found


def require_ids(directory: Path, tokenizer: Tokenizer, config: PolicyConfig) -> None:
    """Refuse a tokenizer with ids that the network has no row for, or without those that a prompt begins with.

    On a GPU an id without a row ends not an inference but the process.

    Raises:
        PolicyError: 207 naming the words, or the token that is missing.
    """
    special_id(tokenizer, BOS if config.fast is None else GEMMA_BOS)
    rows = int(config.language["vocab_size"])
    # What is added to a tokenizer, as PaliGemma's <image>, need not have a row: no prompt may contain it.
    ids = {
        **tokenizer.get_vocab(with_added_tokens=False),
        "the prompt's suffix": config.prompt_suffix_id or 0,
    }
    beyond = sorted((place, word) for word, place in ids.items() if place >= rows)
    if beyond:
        place, word = beyond[0]
        raise unusable(
            directory,
            f"{TOKENIZER}: {len(beyond)} ids lie beyond the {rows} words of the network, {word} ({place}) the first",
            "copy the tokenizer that belongs to these weights",
        )


def known_words(tokenizer: Tokenizer) -> Sequence[str]:
    """Words the tokenizer has of its own, sorted."""
    return sorted(word for word in tokenizer.get_vocab() if not word.startswith("<"))


def _empty() -> PolicyError:
    return PolicyError(
        ErrorCode.POLICY_UNKNOWN_INSTRUCTION, "empty instruction", remedy="say what the arm shall do"
    )


def _require_plain(tokenizer: Tokenizer, instruction: str, ids: Sequence[int]) -> None:
    special = {
        place: token.content for place, token in tokenizer.get_added_tokens_decoder().items() if token.special
    }
    found = sorted({special[place] for place in ids if place in special})
    if found:
        raise PolicyError(
            ErrorCode.POLICY_UNKNOWN_INSTRUCTION,
            f"the instruction contains {' '.join(found)}, which means something to the tokenizer",
            value=instruction,
            remedy="say it in words",
        )


def _unknown_words(tokenizer: Tokenizer, instruction: str, unknown_id: int) -> PolicyError:
    words = [
        word
        for word in instruction.lower().split()
        if unknown_id in tokenizer.encode(word, add_special_tokens=False).ids
    ]
    hints = "; ".join(f"{word}: {did_you_mean(word, known_words(tokenizer))}" for word in words)
    return PolicyError(
        ErrorCode.POLICY_UNKNOWN_INSTRUCTION,
        "the policy never learned these words",
        value=" ".join(words),
        limit="words of its training instructions",
        remedy=hints,
    )
