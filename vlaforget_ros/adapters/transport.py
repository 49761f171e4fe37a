"""Files to and from elsewhere through fsspec: downloads that go on where they stopped, uploads that appear whole.

A location is a path or any URL that fsspec knows (file, memory, s3, gs, http, hf ...). What arrives is only bytes of
a bounded number; what they are worth is judged by who asked for them.
"""

from __future__ import annotations

import json
import logging
import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from vlaforget_ros.adapters.bundle import bad_bundle, no_source
from vlaforget_ros.adapters.files import sync_directory
from vlaforget_ros.adapters.manifest import sha256
from vlaforget_ros.adapters.partials import Partial
from vlaforget_ros.errors import AdapterError, ErrorCode

Progress = Callable[[int, int], None]
_log = logging.getLogger(__name__)
_CHUNK = 1024 * 1024
_LOCAL = {"file", "local"}
_ONLY_READ = {"http", "https"}
# A file appears there as a whole, when all of it has arrived; moving it would copy it once more.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "hf", "abfs", "abfss", "az", "oss", "r2", "oci"}
_DRIVERS = {
    **dict.fromkeys(("http", "https"), "aiohttp"),
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("abfs", "abfss", "az"), "adlfs"),
    **dict.fromkeys(("sftp", "ssh"), "paramiko"),
}
# What file systems say about a file that is another when its content is.
_IDENTITY = (
    *("ETag", "etag", "md5Hash", "Content-MD5", "Digest", "Last-Modified", "LastModified", "VersionId"),
    *("mtime", "created", "modified", "updated", "generation", "blob_id", "sha256", "ino"),
)


@dataclass(frozen=True)
class Location:
    """A place that fsspec reaches.

    Args:
        url: as it was given.
        filesystem: its driver.
        path: as the driver calls it.
    """

    url: str
    filesystem: Any
    path: str

    @property
    def protocols(self) -> set[str]:
        named = self.filesystem.protocol
        return {named} if isinstance(named, str) else set(named)

    @property
    def is_local(self) -> bool:
        return bool(self.protocols & _LOCAL)

    @property
    def public(self) -> str:
        """The URL without what may be secret in it: user, password, query."""
        if "://" not in self.url:
            return self.url
        return re.sub(r"(?<=://)[^/@]*@", "", self.url).partition("?")[0]


@dataclass(frozen=True)
class Source:
    """A file elsewhere, as it is now.

    Args:
        location: where.
        size: its length [B], None where the place does not say.
        key: names this content of this place; a changed file has another one.
    """

    location: Location
    size: int | None
    key: str


def locate(url: str) -> Location:
    """The place that a path or URL means; nothing is asked of it yet.

    Raises:
        AdapterError: 107 for a kind of place that fsspec does not know or whose driver is not installed.
    """
    place = Location(url, None, url)
    with _coded(place):
        try:
            filesystem, path = url_to_fs(url)
        except ValueError as error:
            remedy = "give a path, or a URL that fsspec knows: file, https, s3, gs, hf, sftp ..."
            raise _failed(place, "not a place", _said(error), remedy) from error
    return Location(url, filesystem, path)


def inside(location: Location, name: str) -> Location:
    """The file of this name where the location is a folder (it exists, or ends with /), else the location.

    Raises:
        AdapterError: 107 the place cannot be reached.
    """
    with _coded(location, writes=True):
        is_folder = location.url.endswith("/") or (
            not location.protocols & _ONLY_READ and location.filesystem.isdir(location.path)
        )
    if not is_folder:
        return location
    url, path = location.url.rstrip("/"), location.path.rstrip("/")
    return Location(f"{url}/{name}", location.filesystem, f"{path}/{name}")


def look(location: Location, limit: int) -> Source:
    """What lies at a location, before anything is read.

    Raises:
        AdapterError: 100 nothing, 107 the place cannot be reached, 111 a folder or more than ``limit`` bytes.
    """
    with _coded(location):
        location.filesystem.invalidate_cache()
        info = location.filesystem.info(location.path)
    size = info.get("size")
    if info.get("type", "file") != "file":
        raise bad_bundle("not a plain file", value=location.public)
    if size is not None and size > limit:
        raise bad_bundle("size of the source", value=size, limit=f"{limit} bytes")
    identity = [location.url, size, *(str(info.get(name)) for name in _IDENTITY)]
    return Source(location, size, sha256(json.dumps(identity).encode())[:32])


def download(source: Source, target: Partial, limit: int, progress: Progress | None = None) -> None:
    """Bring a file here, going on where an earlier attempt ended if the source can be read from there.

    Raises:
        AdapterError: 107 where the source fails or ends early, what has arrived is kept; 111 where it has more bytes
            than it said, or than ``limit``.
    """
    size = source.size
    if size is None or target.length > size:
        target.discard()
    if target.length and target.length == size:
        return
    with _coded(source.location):
        if target.length:
            try:
                _copy(source, target, limit, progress)
            except (ValueError, RuntimeError) as error:
                _log.info("%s can only be read from its beginning: %s", source.location.public, error)
                target.discard()
        if not target.length:
            _copy(source, target, limit, progress)
    if size is not None and target.length < size:
        raise _failed(source.location, "the source ended early", f"{target.length} of {size} bytes")


def upload(location: Location, pieces: Iterator[bytes], size: int, progress: Progress | None = None) -> None:
    """Write a file elsewhere so that it is there as a whole or not at all.

    Raises:
        AdapterError: 107 where the place fails or is only for reading; what was there before is then untouched.
    """
    if location.protocols & _ONLY_READ:
        raise _failed(location, "HTTP servers are only read from", location.public)
    filesystem, path = location.filesystem, location.path
    with _coded(location, writes=True):
        if location.protocols & _OBJECT_STORES:
            filesystem.pipe_file(path, b"".join(pieces))
            return
        parent = filesystem._parent(path)
        filesystem.makedirs(parent, exist_ok=True)
        temporary = f"{path}.{uuid.uuid4().hex[:8]}.part"
        try:
            _write(location, temporary, pieces, size, progress)
            _move(filesystem, temporary, path)
        except BaseException:
            if filesystem.exists(temporary):
                filesystem.rm_file(temporary)
            raise
    if location.is_local:
        sync_directory(Path(parent))


def _copy(source: Source, target: Partial, limit: int, progress: Progress | None) -> None:
    """From the end of what is here to the end of the source."""
    arrived, protocols = target.length, source.location.protocols
    most = limit if source.size is None else source.size
    # Without blocks HTTP is one stream, which every server has; from the middle it takes requests of ranges.
    how = {"block_size": 0} if protocols & _ONLY_READ and not arrived else {}
    with source.location.filesystem.open(source.location.path, "rb", **how) as file:
        if arrived:
            file.seek(arrived)
        while content := file.read(_CHUNK):
            arrived += len(content)
            if arrived > most:
                target.discard()
                raise bad_bundle("the source goes on after its size", value=arrived, limit=f"{most} bytes")
            target.append(content)
            if progress is not None:
                progress(arrived, source.size or arrived)


def _write(
    location: Location, path: str, pieces: Iterator[bytes], size: int, progress: Progress | None
) -> None:
    done = 0
    with location.filesystem.open(path, "wb") as file:
        for piece in pieces:
            for start in range(0, len(piece), _CHUNK):
                part = piece[start : start + _CHUNK]
                file.write(part)
                done += len(part)
                if progress is not None:
                    progress(done, size)
        if location.is_local:
            file.flush()
            os.fsync(file.fileno())


def _move(filesystem: Any, old: str, new: str) -> None:
    """By the driver's own means where it has any; fsspec's would take ? and * in a name for patterns."""
    if type(filesystem).mv is not AbstractFileSystem.mv:
        filesystem.mv(old, new)
        return
    filesystem.cp_file(old, new)
    filesystem.rm_file(old)


@contextmanager
def _coded(location: Location, writes: bool = False) -> Iterator[None]:
    """Turn what drivers raise, each its own, into AdapterError 100 or 107."""
    try:
        yield
    except AdapterError:
        raise
    except FileNotFoundError as error:
        if writes:
            raise _failed(location, "not written", _said(error)) from error
        raise no_source(f"{location.public} {error.__cause__ or ''}".rstrip()) from error
    except ImportError as error:
        scheme = location.url.partition("://")[0]
        package = _DRIVERS.get(scheme, "")
        remedy = f"pip install {package}" if package else "install the driver that the value names"
        raise _failed(location, f"no driver for {scheme}://", _said(error), remedy) from error
    except Exception as error:
        raise _failed(location, f"{location.public} failed", _said(error)) from error


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def _failed(location: Location, what: str, value: str, remedy: str = "") -> AdapterError:
    return AdapterError(
        ErrorCode.ADAPTER_DISK,
        f"transfer: {what}",
        value=value,
        remedy=remedy
        or f"check {location.public}; run the command again, a download goes on where it stopped",
    )
