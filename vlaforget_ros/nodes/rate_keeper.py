"""Keeps the monitor's counts in a file without making its thread wait for the disk."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from vlaforget_ros.safety import rate_file
from vlaforget_ros.safety.ratebook import RateBook


class RateKeeper:
    """Reads the counts at once, and writes them on a thread of its own, one write at a time.

    Args:
        path: the file; None keeps nothing.
        book: the counts.
        warn: called with what went wrong, on the caller's thread.
    """

    def __init__(self, path: Path | None, book: RateBook, warn: Callable[[str], object]) -> None:
        self._path, self._book, self._warn = path, book, warn
        self._writer = ThreadPoolExecutor(1, "rates")
        self._writing: Future[str] | None = None
        self._due = False
        if path is not None and (warning := rate_file.load(path, book)):
            warn(warning)

    def changed(self) -> None:
        """The counts changed: they are written soon."""
        self._due = self._path is not None

    def beat(self) -> None:
        """Write what is due, unless a write still runs; it is then due at the next beat."""
        if self._writing is not None:
            if not self._writing.done():
                return
            if warning := self._writing.result():
                self._warn(warning)
            self._writing = None
        if self._due and self._path is not None:
            self._due = False
            self._writing = self._writer.submit(rate_file.save, self._path, self._book.state())

    def close(self) -> None:
        """Write what is due and wait for it."""
        self._writer.shutdown(wait=True)
        if (
            self._due
            and self._path is not None
            and (warning := rate_file.save(self._path, self._book.state()))
        ):
            self._warn(warning)
        self._due = False
