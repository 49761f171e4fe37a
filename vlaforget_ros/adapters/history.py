"""What happened to the adapters of a store: one JSON object a line, only ever appended to."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from vlaforget_ros.adapters.files import append_lines, coded
from vlaforget_ros.errors import AdapterError, ErrorCode


class History:
    """The events of a store, shared by all its processes.

    Args:
        path: the file; it is created by the first event.
        now: clock for the times of events.
    """

    def __init__(self, path: Path, now: Callable[[], datetime]) -> None:
        self._path = path
        self._now = now

    def append(self, event: str, digest: str, **details: Any) -> None:
        """Append an event durably. Raises AdapterError 107; earlier events stay readable."""
        with coded(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        line = {"time": self._now().isoformat(), "event": event, "digest": digest, **details}
        append_lines(self._path, [json.dumps(line, sort_keys=True)])

    def events(self) -> list[dict[str, Any]]:
        """All events, oldest first; a last line torn by a power cut does not count.

        Raises:
            AdapterError: 103 naming a damaged line, 107 on a read error.
        """
        if not self._path.exists():
            return []
        with coded(self._path):
            lines = self._path.read_bytes().split(b"\n")
        return [self._event(number, line) for number, line in enumerate(lines[:-1], start=1)]

    def _event(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            return dict(json.loads(line))
        except (ValueError, TypeError) as error:
            raise AdapterError(
                ErrorCode.ADAPTER_BAD_DIGEST,
                f"line {number} of the history is damaged",
                value=str(self._path),
                remedy="the adapters are intact; move the file away to begin a new history",
            ) from error
