"""One file that holds one adapter with its origin, for the way from one store to another.

A bundle is an uncompressed POSIX tar (ustar) of at most four plain members in one order, the manifest first. The
reader takes exactly what the writer writes: every other kind of tar entry, name, order or byte after the end is
refused by its header, before any content is read. Nothing is ever unpacked to a path that a bundle names.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vlaforget_ros.adapters.files import coded
from vlaforget_ros.adapters.manifest import MANIFEST_FILE, MAX_MANIFEST_BYTES, SIGNATURE_FILE
from vlaforget_ros.adapters.peft_format import (
    CONFIG_FILE,
    MAX_CONFIG_BYTES,
    MAX_WEIGHTS_BYTES,
    WEIGHTS_FILE,
)
from vlaforget_ros.adapters.signatures import MAX_SIGNATURE_BYTES
from vlaforget_ros.errors import AdapterError, ErrorCode

# Members in the order in which they lie in the file, with the most bytes that each may have.
LIMITS = {
    MANIFEST_FILE: MAX_MANIFEST_BYTES,
    SIGNATURE_FILE: MAX_SIGNATURE_BYTES,
    CONFIG_FILE: MAX_CONFIG_BYTES,
    WEIGHTS_FILE: MAX_WEIGHTS_BYTES,
}
REQUIRED = (MANIFEST_FILE, CONFIG_FILE, WEIGHTS_FILE)
_BLOCK = tarfile.BLOCKSIZE
# tar pads a file to whole records of 20 blocks.
_RECORD = tarfile.RECORDSIZE
MAX_BUNDLE_BYTES = sum(LIMITS.values()) + len(LIMITS) * 2 * _BLOCK + 2 * _RECORD
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.DIRTYPE: "a folder",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
    tarfile.XHDTYPE: "an extended header",
    tarfile.XGLTYPE: "an extended header",
    tarfile.GNUTYPE_LONGNAME: "an extended header",
    tarfile.GNUTYPE_LONGLINK: "an extended header",
}
_FOREIGN = {
    b"PK": "a zip archive (torch.save writes one with a pickle inside)",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
}


@dataclass(frozen=True)
class Member:
    """Where the content of a member lies in the bundle [B]."""

    start: int
    size: int


def chunks(files: Mapping[str, bytes]) -> Iterator[bytes]:
    """The bytes of a bundle, piece by piece; the same files give the same bytes.

    Args:
        files: content by name; all of :data:`REQUIRED`, and ``signature.json`` where there is one.
    """
    length = 0
    for name in LIMITS:
        if name not in files:
            continue
        content = files[name]
        header = tarfile.TarInfo(name)
        header.size, header.mode = len(content), 0o644
        padding = bytes(-len(content) % _BLOCK)
        for piece in (header.tobuf(tarfile.USTAR_FORMAT), content, padding):
            length += len(piece)
            yield piece
    end = 2 * _BLOCK
    yield bytes(end + -(length + end) % _RECORD)


def read(path: Path) -> dict[str, bytes]:
    """The members of a bundle by name. Their content is not judged here.

    Raises:
        AdapterError: 100 no such file, 107 a read error, 111 anything that is no bundle; then no content was read.
    """
    try:
        # A pipe would block an ordinary open.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise no_source(str(path)) from error
    except OSError as error:
        raise AdapterError(ErrorCode.ADAPTER_DISK, f"disk: {error.strerror}", value=str(path)) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise bad_bundle("not a plain file", value=str(path))
    with os.fdopen(descriptor, "rb") as file, coded(path):
        members = scan(file, status.st_size)
        return {name: _content(file, name, member) for name, member in members.items()}


def scan(file: BinaryIO, size: int) -> dict[str, Member]:
    """Walk the headers of a bundle of ``size`` bytes and check every one of them.

    Raises:
        AdapterError: 111 naming the first thing that is not as the writer writes it.
    """
    if size > MAX_BUNDLE_BYTES:
        raise bad_bundle("size of the bundle", value=size, limit=f"{MAX_BUNDLE_BYTES} bytes")
    members: dict[str, Member] = {}
    position = 0
    while (header := _header(file, position, size)) is not None:
        _check_member(header, members)
        start = position + _BLOCK
        position = start + header.size + -header.size % _BLOCK
        if position > size:
            raise bad_bundle(f"{header.name} ends after the file", value=position, limit=f"{size} bytes")
        members[header.name] = Member(start, header.size)
    missing = [name for name in REQUIRED if name not in members]
    if missing:
        raise bad_bundle("a member is missing", value=", ".join(missing), limit=", ".join(REQUIRED))
    _check_end(file, position, size)
    return members


def bad_bundle(message: str, *, value: object = None, limit: object = None) -> AdapterError:
    """The error for a file that is not the bundle that it claims to be (111)."""
    return AdapterError(
        ErrorCode.ADAPTER_BAD_BUNDLE,
        f"bundle: {message}",
        value=value,
        limit=limit,
        remedy="export the adapter again with `vlaforget adapters export`; the store is as it was",
    )


def no_source(source: str) -> AdapterError:
    """The error for a bundle that is not there (100)."""
    return AdapterError(
        ErrorCode.ADAPTER_UNKNOWN,
        "no such bundle",
        value=source,
        remedy="give the path or URL that `vlaforget adapters export` printed",
    )


def _header(file: BinaryIO, position: int, size: int) -> tarfile.TarInfo | None:
    """The header at a position, None at the end mark."""
    if size - position < _BLOCK:
        raise bad_bundle("cut off before its end mark", value=f"{size} bytes")
    file.seek(position)
    block = file.read(_BLOCK)
    if not block.strip(b"\0"):
        return None
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        known = [kind for magic, kind in _FOREIGN.items() if position == 0 and block.startswith(magic)]
        raise bad_bundle(
            known[0] if known else f"no tar header ({error})", value=f"byte {position}"
        ) from error


def _check_member(header: tarfile.TarInfo, before: Mapping[str, Member]) -> None:
    name = header.name
    shown = repr(name)[:120]
    if header.type != tarfile.REGTYPE:
        kind = _KINDS.get(header.type, f"an entry of type {header.type!r}")
        raise bad_bundle(f"{kind} in it", value=shown, limit="plain files")
    if name in before:
        raise bad_bundle("a member occurs twice", value=shown)
    if name not in LIMITS:
        raise bad_bundle("a member that does not belong to an adapter", value=shown, limit=", ".join(LIMITS))
    order = list(LIMITS)
    if any(order.index(earlier) > order.index(name) for earlier in before):
        raise bad_bundle("its members are not in order", value=shown, limit=", ".join(LIMITS))
    if not 0 <= header.size <= LIMITS[name]:
        raise bad_bundle(f"size of {name}", value=header.size, limit=f"{LIMITS[name]} bytes")


def _check_end(file: BinaryIO, position: int, size: int) -> None:
    """Nothing but the end mark and the padding may follow: a second file must not hide behind the first."""
    if size - position > 2 * _BLOCK + _RECORD:
        raise bad_bundle("bytes after its end", value=size - position, limit=2 * _BLOCK + _RECORD)
    file.seek(position)
    rest = file.read(size - position)
    if len(rest) < 2 * _BLOCK or rest.strip(b"\0"):
        raise bad_bundle("bytes after its end, or no whole end mark", value=f"{len(rest)} bytes")


def _content(file: BinaryIO, name: str, member: Member) -> bytes:
    file.seek(member.start)
    content = file.read(member.size)
    if len(content) != member.size:
        raise bad_bundle(f"{name} was cut off while it was read", value=len(content), limit=member.size)
    return content
