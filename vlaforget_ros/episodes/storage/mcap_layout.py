"""The outer layout of an mcap file: chunks, footer, and where to go on behind damage."""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from isal.isal_zlib import crc32

from vlaforget_ros.episodes.storage.mcap_records import (
    CHUNK,
    DATA_END,
    FOOTER,
    HEAD,
    HEADER,
    MAGIC,
    MESSAGE,
    Channel,
    Unsound,
    message,
    records,
    text,
)
from vlaforget_ros.episodes.storage.packing import UNSOUND, unpack_chunk

_FOOTER_SIZE = HEAD + 20 + len(MAGIC)
_CHUNK_FIXED = 40
"""Bytes of a chunk's content beside the name of the compression and the data."""
_CHUNK_HEAD = HEAD + _CHUNK_FIXED + 16
_WINDOW = 1 << 22
_CHUNK_LOOKS = re.compile(
    rb"\x06.{5}\x00\x00\x00.{28}(?:\x00{4}|\x03\x00{3}lz4|\x04\x00{3}zstd).{5}\x00{3}", re.DOTALL
)
_LONGEST = 4 << 30
_SCAN = 64
"""Bytes after the candidate of which the window of a search must still have some."""


class RawFile:
    """A file read at places. Memory maps would kill the process where a disk gives up a page."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.size = os.fstat(self._file.fileno()).st_size

    def read(self, at: int, length: int) -> bytes:
        """Bytes at a place, fewer at the end of the file. Raises Unsound where the disk does not give them."""
        try:
            if at < 0 or length > _LONGEST:
                raise Unsound(f"{length} bytes at {at}")
            self._file.seek(at)
            return self._file.read(length)
        except OSError as error:
            raise Unsound(f"{length} bytes at {at} cannot be read: {error}") from error

    def head(self, at: int) -> tuple[int, int, int]:
        """As :func:`head`, of a record of the file."""
        opcode, length = struct.unpack("<BQ", self._exactly(at, HEAD))
        if not opcode or at + HEAD + length > self.size:
            raise Unsound(f"record at {at}: opcode {opcode}, {length} bytes")
        return opcode, at + HEAD, at + HEAD + length

    def _exactly(self, at: int, length: int) -> bytes:
        data = self.read(at, length)
        if len(data) < length:
            raise Unsound(f"record at {at} is cut off")
        return data

    def close(self) -> None:
        """Close it."""
        self._file.close()


@dataclass(frozen=True)
class ChunkPlace:
    """Where a chunk lies, and how its data are packed.

    Attributes:
        offset: of the record.
        length: of the whole record.
        compression: "", ``lz4`` or ``zstd``.
        stored: bytes of the data as they lie in the file.
        size: bytes of the data unpacked.
        start_ns: first log time in it.
        end_ns: last log time in it.
    """

    offset: int
    length: int
    compression: str
    stored: int
    size: int
    start_ns: int
    end_ns: int

    @property
    def data_at(self) -> int:
        """Where the data begin."""
        return self.offset + HEAD + _CHUNK_FIXED + len(self.compression)


def chunk_place(raw: RawFile, at: int, cut: bool = False) -> ChunkPlace:
    """The chunk that begins at a place.

    Args:
        raw: the file.
        at: where the record begins.
        cut: the file ends before the chunk does.

    Raises:
        Unsound: it is no chunk, or does not agree with itself about its lengths.
    """
    data = raw.read(at, _CHUNK_HEAD)
    try:
        opcode, length = struct.unpack_from("<BQ", data)
        start_ns, end_ns, size, _ = struct.unpack_from("<QQQI", data, HEAD)
        compression, behind = text(data, HEAD + 28, len(data))
        (stored,) = struct.unpack_from("<Q", data, behind)
    except struct.error as error:
        raise Unsound(f"chunk at {at} is cut off") from error
    place = ChunkPlace(at, HEAD + length, compression, stored, size, start_ns, end_ns)
    agrees = place.data_at + stored == at + HEAD + length
    if opcode != CHUNK or not agrees or (at + HEAD + length > raw.size) != cut:
        raise Unsound(f"record at {at} is no whole chunk")
    return place


def unpacked(raw: RawFile, place: ChunkPlace) -> bytes:
    """Records of a chunk, its checksum checked where it has one. Raises Unsound."""
    data = raw.read(place.offset, place.length)
    skip = place.data_at - place.offset
    try:
        (crc,) = struct.unpack_from("<I", data, HEAD + 24)
        return unpack_chunk(data[skip : skip + place.stored], place.compression, place.size, crc)
    except UNSOUND as error:
        raise Unsound(f"chunk at {place.offset}: {str(error).rstrip('.')}") from error


def has_checksum(raw: RawFile, place: ChunkPlace) -> bool:
    """Whether its writer left a checksum."""
    return any(raw.read(place.offset + HEAD + 24, 4))


def profile(raw: RawFile) -> tuple[str, int]:
    """What the file says it is for (``ros2`` or nothing), and where its records begin. Raises Unsound."""
    if raw.read(0, len(MAGIC)) != MAGIC:
        raise Unsound("File magic is invalid" if raw.size else "file is empty")
    opcode, start, stop = raw.head(len(MAGIC))
    if opcode != HEADER:
        raise Unsound("file has no header")
    return text(raw.read(start, stop - start), 0, stop - start)[0], stop


@dataclass(frozen=True)
class Tail:
    """The end of a closed file.

    Attributes:
        summary_at: where the summary begins, 0 without one.
        summary: its records.
        summary_ok: whether its checksum fits; None where it has none.
        data_end: where the data section's last record begins.
        data_crc: checksum of everything before, 0 for none.
    """

    summary_at: int
    summary: bytes
    summary_ok: bool | None
    data_end: int
    data_crc: int


def tail(raw: RawFile) -> Tail:
    """Read the footer and the summary. Raises Unsound where the file was not closed, or its end is damaged."""
    at = raw.size - _FOOTER_SIZE
    footer = raw.read(max(at, 0), _FOOTER_SIZE)
    if at < len(MAGIC) or footer[-len(MAGIC) :] != MAGIC:
        raise Unsound("it was not closed")
    summary_at, _, crc = struct.unpack_from("<QQI", footer, HEAD)
    if struct.unpack_from("<BQ", footer) != (FOOTER, 20) or not (
        summary_at == 0 or len(MAGIC) <= summary_at <= at
    ):
        raise Unsound("its footer is damaged")
    data_end = (summary_at or at) - HEAD - 4
    end_record = raw.read(data_end, HEAD + 4)
    if struct.unpack_from("<BQ", end_record) != (DATA_END, 4):
        raise Unsound("its data section has no end")
    (data_crc,) = struct.unpack_from("<I", end_record, HEAD)
    summary = raw.read(summary_at, at - summary_at) if summary_at else b""
    whole = None if not crc else crc32(footer[: HEAD + 16], crc32(summary)) == crc
    return Tail(summary_at, summary, whole, data_end, data_crc)


def data_section_ok(raw: RawFile, end: Tail) -> bool:
    """Whether the checksum of everything before the summary fits; reads all of it."""
    crc = 0
    for at in range(0, end.data_end, _WINDOW):
        crc = crc32(raw.read(at, min(_WINDOW, end.data_end - at)), crc)
    return crc == end.data_crc


def next_chunk(raw: RawFile, at: int) -> int:
    """Where the next chunk begins that is whole, consistent and sound; the end of the file where there is none."""
    while at < raw.size:
        window = raw.read(at, _WINDOW + _SCAN)
        for found in _CHUNK_LOOKS.finditer(window):
            try:
                for _ in records(unpacked(raw, chunk_place(raw, at + found.start()))):
                    pass
            except Unsound:
                continue
            return at + found.start()
        at += _WINDOW
    return raw.size


def next_message(raw: RawFile, at: int, channels: dict[int, Channel], links: int = 3) -> int:
    """Where the next row of ``links`` plausible records begins, a message first; the file's end where there is none."""
    while at < raw.size:
        window = raw.read(at, _WINDOW + _SCAN)
        here = window.find(MESSAGE)
        while 0 <= here < _WINDOW:
            if _chain(raw, at + here, channels, links):
                return at + here
            here = window.find(MESSAGE, here + 1)
        at += _WINDOW
    return raw.size


def _chain(raw: RawFile, at: int, channels: dict[int, Channel], links: int) -> bool:
    for _ in range(links):
        try:
            opcode, start, stop = raw.head(at)
            if opcode > DATA_END:
                return False
            if opcode == MESSAGE and message(raw.read(start, 22), 0, stop - start)[0] not in channels:
                return False
        except (Unsound, struct.error):
            return False
        if stop == raw.size:
            return True
        at = stop
    return True
