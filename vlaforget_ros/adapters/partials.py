"""Downloads under way: files that outlive the process that began them, each held by one process at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from vlaforget_ros.adapters.files import FULL, coded, write_all

_ENDING = ".part"


@dataclass(frozen=True)
class Partial:
    """A download under way.

    Args:
        path: where its bytes are, complete or not.
        file: the same, open to append and to read.
    """

    path: Path
    file: FileIO

    @property
    def length(self) -> int:
        """Bytes that have arrived."""
        return os.fstat(self.file.fileno()).st_size

    def append(self, content: bytes) -> None:
        """Add bytes.

        Raises:
            AdapterError: 107; what arrived before stays, unless the disk is full: then it goes, since the adapters
                and the history beside it need the room more.
        """
        with coded(self.path):
            try:
                write_all(self.file, content)
            except OSError as error:
                if error.errno in FULL:
                    self.file.truncate(0)
                raise

    def discard(self) -> None:
        """Throw away what has arrived: the download begins anew."""
        with coded(self.path):
            self.file.truncate(0)


@contextmanager
def held(folder: Path, key: str) -> Iterator[Partial]:
    """The partial file of a key; another process that wants it waits.

    It goes when the block ends well, or when it is empty, and stays for the next attempt otherwise.

    Raises:
        AdapterError: 107.
    """
    path = folder / f"{key}{_ENDING}"
    with coded(folder):
        folder.mkdir(parents=True, exist_ok=True)
    file = _locked(path)
    with file:
        partial = Partial(path, file)
        try:
            yield partial
        except BaseException:
            if partial.length == 0:
                path.unlink(missing_ok=True)
            raise
        with coded(path):
            path.unlink(missing_ok=True)


def leftovers(folder: Path) -> list[Path]:
    """Partial files, those of running downloads among them."""
    with coded(folder):
        return sorted(folder.glob(f"*{_ENDING}")) if folder.is_dir() else []


def drop(path: Path) -> bool:
    """Remove a partial file unless a running process holds it; whether it did.

    Raises:
        AdapterError: 107.
    """
    with coded(path), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        path.unlink()
    return True


def _locked(path: Path) -> FileIO:
    """The file, open and locked; anew where its last holder removed it while this process waited."""
    while True:
        with coded(path):
            file = path.open("a+b", buffering=0)
            fcntl.flock(file, fcntl.LOCK_EX)
            if _lies_at(path, file):
                return file
            file.close()


def _lies_at(path: Path, file: FileIO) -> bool:
    # One look, not two: another holder may remove the path at any time.
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
