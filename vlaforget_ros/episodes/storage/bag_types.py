"""Message types as a bag's own recorder knew them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from vlaforget_ros.episodes.messages import ADDED_LATER, PACKAGE, typestore
from vlaforget_ros.errors import ErrorCode, UnlearningError

# What bytes that are no message of their type make rosbags' generated code raise.
_NO_MESSAGE = (ValueError, struct.error, IndexError, AssertionError, MemoryError, OverflowError, TypeError)


class BagTypes:
    """Reads messages of a bag by the definitions that lie in it, and by those of ROS 2 Kilted and this package.

    Args:
        path: of the bag, for error texts.
        definitions: message type to definition text, "" where the bag has none.

    Raises:
        UnlearningError: 301 when the bag has another definition of this package's types that lacks what is needed.
    """

    def __init__(self, path: Path, definitions: Mapping[str, str]) -> None:
        self._path = path
        self._definitions = definitions
        self._stores: dict[str, Typestore] = {}
        ours = {name: text for name, text in definitions.items() if name.startswith(f"{PACKAGE}/") and text}
        self._ours = self._own(ours)

    def deserialize(self, data: bytes | memoryview, msgtype: str) -> Any:
        """A message as an object of rosbags' typestore.

        Raises:
            SerdeError: the bytes are no such message.
            UnlearningError: 301 when nothing defines the type.
        """
        store = self.store(msgtype)
        try:
            return _read(store, data, msgtype)
        except SerdeError:
            # Some writers leave a placeholder in place of the definition of a type that everybody knows.
            if store is self._ours or msgtype not in self._ours.fielddefs:
                raise
            return _read(self._ours, data, msgtype)

    def store(self, msgtype: str) -> Typestore:
        """Where a type is defined.

        Raises:
            UnlearningError: 301 when nothing defines it.
        """
        found = self._stores.get(msgtype)
        if found is None:
            found = self._stores[msgtype] = self._find(msgtype)
        return found

    def _find(self, msgtype: str) -> Typestore:
        text = self._definitions.get(msgtype, "")
        if msgtype.startswith(f"{PACKAGE}/") or not text:
            if msgtype in self._ours.fielddefs:
                return self._ours
            raise unreadable(
                self._path,
                f"bag has no definition of {msgtype}",
                "record it as mcap (definitions are in the file), or convert it with `ros2 bag convert` where the"
                " type is installed",
            )
        parsed = self._parse(msgtype, text)
        if all(_same(self._ours, name, fields) for name, fields in parsed.items()):
            return self._ours
        store = get_typestore(Stores.ROS2_KILTED)
        for name in parsed.keys() & store.fielddefs.keys():
            # rosbags refuses to define a type anew; recorded with another version of it, the recorded one counts.
            del store.fielddefs[name]
            del store.types[name]
        store.register(parsed)
        return store

    def _own(self, texts: Mapping[str, str]) -> Typestore:
        ours = typestore()
        theirs: dict[str, Any] = {}
        for msgtype, text in texts.items():
            parsed = self._parse(msgtype, text)
            theirs.update({n: fields for n, fields in parsed.items() if n.startswith(f"{PACKAGE}/")})
        for name, (_, fields) in theirs.items():
            lacking = (
                _fields(ours, name) - {field[0] for field in fields} - ADDED_LATER.get(name, frozenset())
            )
            if lacking:
                raise unreadable(
                    self._path,
                    f"bag was recorded with another definition of {name}: it lacks {', '.join(sorted(lacking))}",
                    "read it with the version of this package that recorded it",
                )
        if all(len(_fields(ours, name)) == len(fields) for name, (_, fields) in theirs.items()):
            return ours
        store = get_typestore(Stores.ROS2_KILTED)
        store.register(theirs)
        store.register({n: f for n, f in ours.fielddefs.items() if n not in store.fielddefs})
        return store

    def _parse(self, msgtype: str, text: str) -> Any:
        try:
            if text.startswith("=" * 80 + "\nIDL: "):
                return get_types_from_idl(text)
            return get_types_from_msg(text, msgtype)
        except (TypesysError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
            message = f"bag defines {msgtype} in an unknown way: {reason[:200]}"
            raise unreadable(self._path, message, "record again") from error


def _read(store: Typestore, data: bytes | memoryview, msgtype: str) -> Any:
    try:
        return store.deserialize_cdr(data, msgtype)
    except SerdeError:
        raise
    except _NO_MESSAGE as error:
        raise SerdeError(f"{len(data)} bytes are no {msgtype}") from error


def _same(store: Typestore, name: str, fields: Any) -> bool:
    return name in store.fielddefs and list(store.fielddefs[name][1]) == list(fields[1])


def _fields(store: Typestore, name: str) -> set[str]:
    return {field[0] for field in store.fielddefs[name][1]} if name in store.fielddefs else set()


def unreadable(path: Path, message: str, remedy: str) -> UnlearningError:
    """Error 301 of a bag as a whole."""
    return UnlearningError(
        ErrorCode.UNLEARNING_BAG_UNREADABLE,
        message,
        value=str(path),
        limit="a rosbag2 folder, or a .mcap or .db3 file",
        remedy=remedy,
    )
