"""Objects by name: whether an instruction speaks of a thing. Words only; what the camera shows is not looked at."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

_WORD = re.compile(r"\w+")
_PATTERN_WORD = re.compile(r"[^\s,.;:]+")
_WILD = frozenset("*?[")
# Shorter words have no plural that a rule could tell: "is", "gas".
_SHORTEST_PLURAL = 4


def words_of(text: str) -> list[str]:
    """The words of an instruction, in lower case."""
    return _WORD.findall(text.lower())


def names_object(instruction: str, thing: str) -> bool:
    """Whether an instruction names a thing.

    The words of ``thing`` follow each other in the instruction as whole words, in any case: ``cup`` is in "lift the
    Cup" and not in "close the cupboard". Singular and plural are the same (``mug``, ``mugs``; ``box``, ``boxes``;
    ``berry``, ``berries``; ``knife``, ``knives``), irregular ones are not. A word may be a pattern: ``cup*``.

    Args:
        instruction: what the policy was told.
        thing: one or more words; never true for none.
    """
    told, wanted = words_of(instruction), _PATTERN_WORD.findall(thing.lower())
    if not wanted:
        return False
    starts = range(len(told) - len(wanted) + 1)
    return any(all(_same(told[s + i], word) for i, word in enumerate(wanted)) for s in starts)


def names_any(instruction: str, things: Iterable[str]) -> bool:
    """Whether an instruction names one of some things, as :func:`names_object`."""
    return any(names_object(instruction, thing) for thing in things)


def _same(told: str, wanted: str) -> bool:
    if not _WILD.isdisjoint(wanted):
        return fnmatchcase(told, wanted)
    return not _singulars(told).isdisjoint(_singulars(wanted))


def _singulars(word: str) -> set[str]:
    """The word, and what it would be the plural of."""
    found = {word}
    if len(word) < _SHORTEST_PLURAL or not word.endswith("s") or word.endswith("ss"):
        return found
    found.add(word[:-1])
    if word.endswith("ies"):
        found.add(f"{word[:-3]}y")
    elif word.endswith("ves"):
        found |= {f"{word[:-3]}f", f"{word[:-3]}fe"}
    elif word.endswith(("ses", "xes", "zes", "ches", "shes", "oes")):
        found.add(word[:-2])
    return found
