"""The counts in a file, so that they survive a restart: written whole or not at all, and never a reason not to run."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlaforget_ros.errors import SafetyError
from vlaforget_ros.safety.ratebook import RateBook


def save(path: Path, state: Mapping[str, Any]) -> str:
    """Write a state; the file is the old or the new one, whole, whatever happens meanwhile.

    Args:
        path: file; its folder is made.
        state: of :meth:`RateBook.state`.

    Returns:
        "" or a warning: a full disk must not stop the monitor.
    """
    temporary = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        return f"the counts are not kept: {path}: {error.strerror or error}; make room, or name another state_file"
    return ""


def load(path: Path, book: RateBook) -> str:
    """Go on from the file, if there is one; a damaged one is put aside.

    Args:
        path: of :func:`save`.
        book: takes the counts; stays as it is when there are none.

    Returns:
        "" or a warning.
    """
    try:
        book.restore(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"the counts of before cannot be read: {path}: {error.strerror}; they begin anew"
    except (ValueError, RecursionError, SafetyError) as error:
        return f"the counts of before are damaged and begin anew: {_put_aside(path)}: {error}"
    return ""


def _put_aside(path: Path) -> str:
    """Rename a damaged file, never over another one; says where it is."""
    for number in range(1, 1000):
        aside = path.with_name(f"{path.name}.damaged-{number}")
        if not aside.exists():
            try:
                path.rename(aside)
            except OSError:
                break
            return f"kept as {aside}"
    return f"left as {path}"


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
