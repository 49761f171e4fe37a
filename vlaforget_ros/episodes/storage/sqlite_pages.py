"""Rows of a damaged sqlite3 file, page by page: what the library itself refuses to walk through.

Layout: https://sqlite.org/fileformat2.html. Every page that is a leaf of a table is read for its rows, whatever became
of the pages that should lead to it. A row counts when it is whole: its record and its chain of overflow pages end
where they must, and no other row claims the same pages. rosbag2 never deletes rows, so no stale ones turn up.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAGIC = b"SQLite format 3\x00"
_LEAF = 0x0D
Value = None | int | float | str | bytes


class BadPages(ValueError):
    """The file is no sqlite3 file."""


@dataclass(frozen=True)
class Row:
    """Where a row lies: its number, bytes in its own page, and the first page of the rest (0 for none)."""

    number: int
    page: int
    at: int
    local: int
    size: int
    overflow: int


class Pages:
    """A file cut into pages.

    Raises:
        BadPages: it has no header of its kind.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        header = self._file.read(100)
        if header[: len(MAGIC)] != MAGIC or len(header) < 100:
            self._file.close()
            raise BadPages("file is not a database")
        (size,) = struct.unpack_from(">H", header, 16)
        self.page_size = 65536 if size == 1 else size
        self._usable = self.page_size - header[20]
        if self.page_size < 512 or self.page_size & (self.page_size - 1) or self._usable < 480:
            self._file.close()
            raise BadPages(f"pages of {self.page_size} bytes")
        self.count = path.stat().st_size // self.page_size
        (self.declared,) = struct.unpack_from(">I", header, 28)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def page(self, number: int) -> bytes:
        """Bytes of a page; the first has number 1."""
        self._file.seek((number - 1) * self.page_size)
        return self._file.read(self.page_size)

    def rows(self) -> Iterator[tuple[Row, bytes]]:
        """Every row of every leaf, with its bytes in its own page."""
        for number in range(1, self.count + 1):
            page = self.page(number)
            yield from self._leaf(number, page, 100 if number == 1 else 0)

    def _leaf(self, number: int, page: bytes, begin: int) -> Iterator[tuple[Row, bytes]]:
        if page[begin] != _LEAF:
            return
        cells, content = struct.unpack_from(">HH", page, begin + 3)
        pointers_end = begin + 8 + 2 * cells
        if pointers_end > self._usable or (content or 65536) > self._usable or content < pointers_end:
            return
        for (at,) in struct.iter_unpack(">H", page[begin + 8 : pointers_end]):
            if at < pointers_end or at >= self._usable:
                continue
            try:
                row = self._cell(number, page, at)
            except IndexError:
                continue
            if row is not None:
                yield row, page[row.at : row.at + row.local]

    def _cell(self, number: int, page: bytes, at: int) -> Row | None:
        size, at = varint(page, at)
        rowid, at = varint(page, at)
        local = self._local(size)
        overflow = 0
        end = at + local
        if local < size:
            if end + 4 > self._usable:
                return None
            (overflow,) = struct.unpack_from(">I", page, end)
        if end > self._usable or rowid < 0 or size > self.count * self.page_size:
            return None
        return Row(rowid, number, at, local, size, overflow)

    def _local(self, size: int) -> int:
        most = self._usable - 35
        if size <= most:
            return size
        least = (self._usable - 12) * 32 // 255 - 23
        local = least + (size - least) % (self._usable - 4)
        return local if local <= most else least

    def chain(self, row: Row) -> list[int] | None:
        """Pages with the rest of a row; None where the chain is not whole."""
        left, page, chain = row.size - row.local, row.overflow, list[int]()
        while left > 0:
            if not 1 < page <= self.count or page in chain:
                return None
            chain.append(page)
            self._file.seek((page - 1) * self.page_size)
            (page,) = struct.unpack(">I", self._file.read(4))
            left -= self._usable - 4
        return chain if page == 0 else None

    def payload(self, row: Row) -> bytes:
        """All bytes of a row; fewer where its chain is not whole."""
        parts = [self.page(row.page)[row.at : row.at + row.local]]
        parts += [self.page(page)[4 : self._usable] for page in self.chain(row) or ()]
        return b"".join(parts)[: row.size]


def values(payload: bytes, partial: bool = False) -> list[Value] | None:
    """Columns of a record; None where it does not fit itself.

    Args:
        payload: bytes of the record.
        partial: only the first bytes; the columns that lie in them are given.
    """
    try:
        header, at = varint(payload, 0)
        body, found = header, list[Value]()
        if header > len(payload):
            return None
        while at < header:
            kind, at = varint(payload, at)
            size = _size(kind)
            if size is None or (body + size > len(payload) and not partial):
                return None
            if body + size > len(payload):
                return found
            found.append(_value(kind, payload[body : body + size]))
            body += size
        return found if partial or body == len(payload) else None
    except (IndexError, UnicodeDecodeError):
        return None


def kinds(local: bytes) -> tuple[int, ...]:
    """Serial types of a record's columns, from its first bytes; () where there is no header."""
    try:
        header, at = varint(local, 0)
        found = []
        while at < header:
            kind, at = varint(local, at)
            found.append(kind)
        return tuple(found)
    except IndexError:
        return ()


def _size(kind: int) -> int | None:
    if kind >= 12:
        return (kind - 12) // 2
    return {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 7: 8, 8: 0, 9: 0}.get(kind)


def _value(kind: int, data: bytes) -> Value:
    if kind == 0:
        return None
    if kind == 7:
        return float(struct.unpack(">d", data)[0])
    if kind < 10:
        return kind - 8 if kind >= 8 else int.from_bytes(data, "big", signed=True)
    return data.decode() if kind % 2 else data


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of one to nine bytes, and where it ends. Raises IndexError at the end of the bytes."""
    value = 0
    for place in range(8):
        byte = data[at + place]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + place + 1
    value = value << 8 | data[at + 8]
    return value - (1 << 64) if value >= 1 << 63 else value, at + 9
