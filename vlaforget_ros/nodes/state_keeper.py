"""Keeps a value in a file without making the node's thread wait for the disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vlaforget_ros.safety import kept_file


class StateKeeper:
    """Hands a file's value out once, and writes newer ones on a thread of its own, one write at a time.

    Args:
        path: the file; None keeps nothing.
        what: it is, for a person: "the counts".
        state: the value now, None where there is nothing to keep. Called on the caller's thread.
        warn: called with what went wrong, on the caller's thread.
    """

    def __init__(
        self,
        path: Path | None,
        what: str,
        state: Callable[[], Mapping[str, Any] | str | None],
        warn: Callable[[str], object],
    ) -> None:
        self._path, self._what, self._state, self._warn = path, what, state, warn
        self._writer = ThreadPoolExecutor(1, "state")
        self._writing: Future[str] | None = None
        self._due = False

    @property
    def keeps(self) -> bool:
        """Whether there is a file."""
        return self._path is not None

    def load(self, take: Callable[[Any], object]) -> bool:
        """Give what was kept to ``take``, as :func:`kept_file.load` does; False where that went wrong."""
        warning = "" if self._path is None else kept_file.load(self._path, take, self._what)
        if warning:
            self._warn(warning)
        return not warning

    def changed(self) -> None:
        """The value changed: it is written soon."""
        self._due = self._path is not None

    def changed_now(self) -> None:
        """The value changed, and must not wait for the next beat."""
        self.changed()
        self.beat()

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
            self._writing = self._writer.submit(kept_file.save, self._path, self._state(), self._what)

    def close(self) -> None:
        """Write what is due and wait for it."""
        self._writer.shutdown(wait=True)
        if (
            self._due
            and self._path is not None
            and (warning := kept_file.save(self._path, self._state(), self._what))
        ):
            self._warn(warning)
        self._due = False
