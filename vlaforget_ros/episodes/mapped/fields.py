"""Paths into messages of any type: ``pose.position``, ``points[0].positions``, ``data``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype

from vlaforget_ros.episodes.storage.bags import Bag
from vlaforget_ros.errors import ErrorCode, UnlearningError, did_you_mean

_STEP = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:\[(\d+)\])?")
HEADER = "std_msgs/msg/Header"
TIME = "builtin_interfaces/msg/Time"
_TEXTS = ("string", "wstring")

Get = Callable[[Any], Any]


class NoValue(ValueError):
    """One message lacks what a path leads to; the others may have it."""


def numbers(bag: Bag, msgtype: str, paths: Sequence[str], names: Sequence[str] = ()) -> Get:
    """What reads the numbers at some paths, joined, as a (D,) float64 array.

    Args:
        bag: knows the type.
        msgtype: of the message.
        paths: to numbers, lists of numbers, or parts that consist of numbers.
        names: of the joints that are meant, in their order; for messages that have a list ``name``.

    Returns:
        a function of the message; it raises NoValue where the message has fewer values.

    Raises:
        UnlearningError: 300 for a path that the type does not have, or that leads to no number.
    """
    leaves: list[Get] = []
    for path in paths:
        get, kind = _walk(bag, msgtype, path)
        leaves += [_then(get, leaf) for leaf in _leaves(bag, kind, msgtype, path)]
    if names:
        _walk(bag, msgtype, "name")

    def read(message: Any) -> np.ndarray:
        try:
            parts = [np.atleast_1d(np.asarray(leaf(message), dtype=np.float64)) for leaf in leaves]
            if names:
                there = list(message.name)
                chosen = [there.index(name) for name in names]
                parts = [part[chosen] for part in parts]
        except (IndexError, ValueError, TypeError) as error:
            raise NoValue(str(error)) from error
        return np.concatenate(parts)

    return read


def value(bag: Bag, msgtype: str, path: str) -> Get:
    """What reads one text, number or truth value at a path. Raises UnlearningError 300 as :func:`numbers`."""
    get, (node, _) = _walk(bag, msgtype, path)
    if node is not Nodetype.BASE:
        raise _wrong(path, msgtype, "it leads to no single value", "go on to a value in it")

    def read(message: Any) -> Any:
        try:
            found = get(message)
        except IndexError as error:
            raise NoValue(str(error)) from error
        return found.item() if isinstance(found, np.generic) else found

    return read


def stamp(bag: Bag, msgtype: str, path: str) -> Get | None:
    """What reads the time at a path [ns]; ``header.stamp`` for "". None where the type has no header.

    Raises:
        UnlearningError: 300 for a path that leads to no time.
    """
    if not path:
        fields = dict(bag.fields(msgtype))
        if fields.get("header") != (Nodetype.NAME, HEADER):
            return None
        path = "header.stamp"
    get, kind = _walk(bag, msgtype, path)
    if kind != (Nodetype.NAME, TIME):
        raise _wrong(path, msgtype, "it leads to no time", f"name a field of type {TIME}")

    def read(message: Any) -> int:
        found = get(message)
        return int(found.sec) * 1_000_000_000 + int(found.nanosec)

    return read


def begins_with_header(bag: Bag, msgtype: str) -> bool:
    """Whether the stamp is among the first bytes of a message."""
    fields = bag.fields(msgtype)
    return bool(fields) and fields[0] == ("header", (Nodetype.NAME, HEADER))


def _walk(bag: Bag, msgtype: str, path: str) -> tuple[Get, Any]:
    """What gets the part of a message at a path, and what kind of part it is."""
    steps: list[tuple[str, int | None]] = []
    kind: Any = (Nodetype.NAME, msgtype)
    for word in path.split("."):
        found = _STEP.fullmatch(word)
        if found is None:
            raise _wrong(path, msgtype, f"{word!r} is no field", "join names with dots, as pose.position.x")
        name, place = found[1], None if found[2] is None else int(found[2])
        if kind[0] is not Nodetype.NAME:
            raise _wrong(path, msgtype, f"nothing is below the field before {name}", "end the path there")
        fields = dict(bag.fields(kind[1]))
        if name not in fields:
            raise _wrong(path, msgtype, f"{kind[1]} has no field {name}", did_you_mean(name, fields))
        kind = fields[name]
        if place is not None:
            if kind[0] not in (Nodetype.ARRAY, Nodetype.SEQUENCE):
                raise _wrong(path, msgtype, f"{name} is no list", "leave the index out")
            kind = kind[1][0]
        steps.append((name, place))

    def get(message: Any) -> Any:
        for name, place in steps:
            message = getattr(message, name)
            if place is not None:
                message = message[place]
        return message

    return get, kind


def _leaves(bag: Bag, kind: Any, msgtype: str, path: str) -> list[Get]:
    node, what = kind
    if node is Nodetype.BASE and what[0] not in _TEXTS:
        return [_same]
    if (
        node in (Nodetype.ARRAY, Nodetype.SEQUENCE)
        and what[0][0] is Nodetype.BASE
        and what[0][1][0] not in _TEXTS
    ):
        return [_same]
    if node is Nodetype.NAME:
        found: list[Get] = []
        for name, part in bag.fields(what):
            found += [_then(_attribute(name), leaf) for leaf in _leaves(bag, part, msgtype, f"{path}.{name}")]
        return found
    if node in (Nodetype.ARRAY, Nodetype.SEQUENCE) and what[0][0] is Nodetype.NAME:
        raise _wrong(path, msgtype, "it is a list of messages", f"say which one, as {path}[0]")
    raise _wrong(path, msgtype, "it leads to no number", "name a field that holds numbers")


def _same(message: Any) -> Any:
    return message


def _attribute(name: str) -> Get:
    return lambda message: getattr(message, name)


def _then(first: Get, second: Get) -> Get:
    return lambda message: second(first(message))


def _wrong(path: str, msgtype: str, why: str, remedy: str) -> UnlearningError:
    return UnlearningError(
        ErrorCode.UNLEARNING_BAD_REQUEST,
        f"bad mapping: field {path} of {msgtype}: {why}",
        value=path,
        limit=f"a path into {msgtype}",
        remedy=remedy,
    )
