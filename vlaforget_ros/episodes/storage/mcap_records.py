"""Records of an mcap file, byte by byte, and never further than they are sound.

Layout: https://mcap.dev/spec. A file is a magic number and records of one byte opcode, eight bytes length and content;
messages lie in the data section or in chunks. rosbags and the mcap library read such files too, but stop at the first
byte that is wrong; here the point is to go on behind it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

MAGIC = b"\x89MCAP0\r\n"
HEADER, FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, MESSAGE_INDEX, CHUNK_INDEX = range(1, 9)
STATISTICS, DATA_END = 0x0B, 0x0F
HEAD = 9
"""Bytes of opcode and length."""
_UNPACK_HEAD = struct.Struct("<BQ").unpack_from
_UNPACK_MESSAGE = struct.Struct("<HIQQ").unpack_from
_MESSAGE_FIXED = 22


class Unsound(ValueError):
    """Bytes are not what they say they are."""


class NoSchema(Unsound):
    """A channel refers to a schema that was not defined before."""


@dataclass(frozen=True)
class Channel:
    """Topic, message type, and the type's definition text."""

    topic: str
    msgtype: str
    definition: str


def head(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    """Opcode, and where the content begins and ends. Raises Unsound where it would end behind ``end``."""
    if at + HEAD > end:
        raise Unsound(f"record at {at} is cut off")
    opcode, length = _UNPACK_HEAD(data, at)
    if not opcode or at + HEAD + length > end:
        raise Unsound(f"record at {at}: opcode {opcode}, {length} bytes")
    return opcode, at + HEAD, at + HEAD + length


def records(data: bytes, at: int = 0) -> Iterator[tuple[int, int, int]]:
    """Every record in some bytes: opcode, begin and end of the content. Raises Unsound where one is not whole."""
    end = len(data)
    while at < end:
        opcode, start, stop = head(data, at, end)
        yield opcode, start, stop
        at = stop


def message(data: bytes, start: int, stop: int) -> tuple[int, int, int]:
    """Channel, log time and where the bytes of a message begin. Raises Unsound."""
    if stop - start < _MESSAGE_FIXED:
        raise Unsound(f"message of {stop - start} bytes")
    channel, _, log_time, _ = _UNPACK_MESSAGE(data, start)
    return channel, log_time, start + _MESSAGE_FIXED


class Definitions:
    """Schemas and channels as they come by."""

    def __init__(self) -> None:
        self.channels: dict[int, Channel] = {}
        self._schemas: dict[int, tuple[str, str]] = {0: ("", "")}

    def take(self, opcode: int, data: bytes, start: int, stop: int) -> None:
        """One more record; others than schemas and channels change nothing. Raises Unsound."""
        try:
            if opcode == SCHEMA:
                (key,) = struct.unpack_from("<H", data, start)
                name, at = text(data, start + 2, stop)
                _, at = text(data, at, stop)
                self._schemas[key] = (name, text(data, at, stop)[0])
            elif opcode == CHANNEL:
                key, schema = struct.unpack_from("<HH", data, start)
                if schema not in self._schemas:
                    raise NoSchema(f"channel {key} has no schema")
                self.channels[key] = Channel(text(data, start + 4, stop)[0], *self._schemas[schema])
        except struct.error as error:
            raise Unsound(f"definition at {start} makes no sense") from error


def text(data: bytes, at: int, end: int) -> tuple[str, int]:
    """A text and where it ends. Raises Unsound."""
    try:
        (length,) = struct.unpack_from("<I", data, at)
        if at + 4 + length > end:
            raise Unsound(f"text of {length} bytes at {at} is cut off")
        return data[at + 4 : at + 4 + length].decode(), at + 4 + length
    except (struct.error, UnicodeDecodeError) as error:
        raise Unsound(f"no text at {at}") from error
