"""Files that survive a power cut, and reads that cannot be fooled: the store's only way to the disk.

Every OSError becomes an AdapterError 107 that names the file and what the system said.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path

from vlaforget_ros.adapters.safetensors_header import bad_format
from vlaforget_ros.errors import AdapterError, ErrorCode

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def disk_error(error: OSError, path: Path) -> AdapterError:
    """The coded error (107) for what the operating system refused."""
    if error.errno in FULL:
        remedy = "free space on the file system of the store; the adapters in it are intact"
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        remedy = "the store is read-only for this user: serving and rollback work, adding does not"
    else:
        remedy = "check the disk; the adapters that were in the store before are untouched"
    return AdapterError(
        ErrorCode.ADAPTER_DISK, f"disk: {error.strerror or error}", value=str(path), limit=None, remedy=remedy
    )


@contextmanager
def coded(path: Path) -> Iterator[None]:
    """Turn any OSError of the block into AdapterError 107."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, path) from error


def read_limited(path: Path, limit: int) -> bytes:
    """Read a plain file of at most ``limit`` bytes; symbolic links are refused.

    Raises:
        AdapterError: 100 missing, 104 a link, no plain file or too large, 107 on a read error.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise AdapterError(
            ErrorCode.ADAPTER_UNKNOWN,
            "a file of the adapter is missing",
            value=str(path),
            remedy="give a directory with adapter_config.json, adapter_model.safetensors and manifest.json",
        ) from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise bad_format("a symbolic link inside an adapter", value=str(path)) from error
        raise disk_error(error, path) from error
    with coded(path), os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise bad_format("not a plain file", value=str(path))
        if status.st_size > limit:
            raise bad_format(f"size of {path.name}", value=status.st_size, limit=f"{limit} bytes")
        return file.read(limit + 1)


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file and wait until it is on the disk.

    Raises:
        AdapterError: 107.
    """
    with coded(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Make renames and new names inside a directory durable."""
    with coded(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def replace_file(path: Path, content: bytes) -> None:
    """Give a file new content; a reader, or the next boot, sees the old or the new one and nothing between.

    Raises:
        AdapterError: 107; the old content is then in place.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_synced(temporary, content)
        with coded(path):
            temporary.replace(path)
    except AdapterError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def append_lines(path: Path, lines: list[str]) -> None:
    """Append whole lines durably. A torn last line, left by a power cut, is cut off first.

    Raises:
        AdapterError: 107; what was written before stays readable.
    """
    with coded(path), path.open("a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        whole = _whole_lines(file)
        file.truncate(whole)
        try:
            write_all(file, "".join(line + "\n" for line in lines).encode())
            os.fsync(file.fileno())
        except OSError:
            file.truncate(whole)
            raise


def write_all(file: RawIOBase, content: bytes) -> None:
    """Write all of it to an unbuffered file. Raises OSError."""
    view = memoryview(content)
    while view:
        view = view[file.write(view) or 0 :]


def _whole_lines(file: RawIOBase) -> int:
    """Bytes up to and with the last line end, found from the end of the file."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 4096)
        file.seek(start)
        found = (file.read(end - start) or b"").rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Exclusive lock between processes and threads; the system frees it when its holder dies.

    Raises:
        AdapterError: 107 where the lock file cannot be opened (for example on a read-only disk).
    """
    with coded(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with coded(path):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
