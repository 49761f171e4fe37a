"""The prompt of OpenVLA and the word-level tokenizer of the embedded model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from vlaforget_ros.errors import ErrorCode, PolicyError, did_you_mean

_TEMPLATE = "In: What action should the robot take to {instruction}?\nOut:"
_WORDS = Regex(r"\w+|[^\w\s]|\n")
PAD, BOS, EOS, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"


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
        raise PolicyError(
            ErrorCode.POLICY_UNKNOWN_INSTRUCTION, "empty instruction", remedy="say what the arm shall do"
        )
    unknown_id = tokenizer.token_to_id(UNKNOWN)
    encoded = tokenizer.encode(prompt_text(instruction), add_special_tokens=False)
    if unknown_id is not None and unknown_id in encoded.ids:
        raise _unknown_words(tokenizer, instruction, unknown_id)
    ids = [special_id(tokenizer, BOS), *encoded.ids]
    if suffix_id is not None and ids[-1] != suffix_id:
        ids.append(suffix_id)
    return ids


def special_id(tokenizer: Tokenizer, token: str) -> int:
    """Id of a special token. Raises PolicyError 207 where the tokenizer has none."""
    found = tokenizer.token_to_id(token)
    if found is None:
        raise PolicyError(
            ErrorCode.POLICY_BAD_CHECKPOINT,
            "the tokenizer lacks a special token",
            value=token,
            limit=f"{PAD} {BOS} {EOS}",
        )
    return found


def known_words(tokenizer: Tokenizer) -> Sequence[str]:
    """Words the tokenizer has of its own, sorted."""
    return sorted(word for word in tokenizer.get_vocab() if not word.startswith("<"))


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
