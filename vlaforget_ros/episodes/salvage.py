"""What can still be read of an mcap file that was never closed: no summary, no footer, perhaps half a record.

Layout: https://mcap.dev/spec. A file is a magic number and records of one byte opcode, eight bytes length and
content; messages lie in the data section or in chunks. The data section repeats schemas and channels before
their first message, so reading from the front needs no index.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from rosbags.rosbag2.errors import ReaderError
from rosbags.rosbag2.storage_mcap import decompress

MAGIC = b"\x89MCAP0\r\n"
_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 0x03, 0x04, 0x05, 0x06, 0x0F


@dataclass(frozen=True)
class SalvagedTopic:
    """A channel of the file: topic, message type, and the type's definition text."""

    topic: str
    msgtype: str
    definition: str


@dataclass
class McapSalvage:
    """Reads a damaged mcap file from the front until it makes no sense any more.

    Attributes:
        path: the file.
        topics: channels by id, filled by reading.
        intact: whether the data section was complete; known after :meth:`messages` has ended.
    """

    path: Path
    topics: dict[int, SalvagedTopic] = field(default_factory=dict)
    intact: bool = False
    _schemas: dict[int, tuple[str, str]] = field(default_factory=dict)

    def messages(self) -> Iterator[tuple[SalvagedTopic, int, bytes]]:
        """Topic, log time [ns] and CDR bytes of every message that is whole, in the order of the file."""
        with self.path.open("rb") as file:
            if file.read(len(MAGIC)) == MAGIC:
                yield from self._records(file, outermost=True)

    def _records(self, stream: BinaryIO, outermost: bool) -> Iterator[tuple[SalvagedTopic, int, bytes]]:
        while True:
            head = stream.read(9)
            if len(head) < 9:
                return
            opcode, length = struct.unpack("<BQ", head)
            content = stream.read(length)
            if opcode == _CHUNK and outermost:
                yield from self._chunk(content)
            if len(content) < length:
                return
            try:
                message = self._record(opcode, content)
            except (struct.error, UnicodeDecodeError, KeyError):
                return
            if message is not None:
                yield message
            self.intact = self.intact or (outermost and opcode == _DATA_END)

    def _record(self, opcode: int, content: bytes) -> tuple[SalvagedTopic, int, bytes] | None:
        if opcode == _SCHEMA:
            (key,) = struct.unpack_from("<H", content)
            name, at = _text(content, 2)
            _, at = _text(content, at)
            self._schemas[key] = (name, _text(content, at)[0])
        elif opcode == _CHANNEL:
            key, schema = struct.unpack_from("<HH", content)
            self.topics[key] = SalvagedTopic(_text(content, 4)[0], *self._schemas[schema])
        elif opcode == _MESSAGE:
            key, _, log_time = struct.unpack_from("<HIQ", content)
            return self.topics[key], log_time, content[22:]
        return None

    def _chunk(self, content: bytes) -> Iterator[tuple[SalvagedTopic, int, bytes]]:
        try:
            size, crc = struct.unpack_from("<QI", content, 16)
            compression, at = _text(content, 28)
            (stored,) = struct.unpack_from("<Q", content, at)
        except (struct.error, UnicodeDecodeError):
            return
        data = content[at + 8 : at + 8 + stored]
        if compression or len(data) == stored:
            try:
                data = decompress(data, compression, size, crc)
            except (ReaderError, ValueError, RuntimeError, OSError, EOFError):
                return
        # An uncompressed chunk that was cut short is still good up to the cut.
        yield from self._records(io.BytesIO(data), outermost=False)


def _text(content: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<I", content, at)
    raw = content[at + 4 : at + 4 + length]
    if len(raw) < length:
        raise struct.error(f"text of {length} bytes at {at} is cut off")
    return raw.decode(), at + 4 + length
