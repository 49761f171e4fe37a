"""What must survive a restart, in a file: written whole or not at all, and never a reason not to run."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vlaforget_ros.errors import ErrorCode, SafetyError, VlaForgetError


def save(path: Path, value: Mapping[str, Any] | str | None, what: str) -> str:
    """Write a value; the file is the old or the new one, whole, whatever happens meanwhile.

    Args:
        path: file; its folder is made.
        value: for JSON, or its text; None where there is nothing to keep: the file goes.
        what: it is, for a person: "the counts".

    Returns:
        "" or a warning: a full disk must not stop the monitor.
    """
    temporary = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if value is None:
            path.unlink(missing_ok=True)
        else:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(value if isinstance(value, str) else json.dumps(value))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        why = error.strerror or error
        return f"{what} would not survive a restart: {path}: {why}; make room, or name another state_file"
    return ""


def load(path: Path, take: Callable[[Any], object], what: str) -> str:
    """Hand the file's value to ``take``, if there is one; a file that it refuses is put aside.

    Args:
        path: of :func:`save`.
        take: raises ValueError or a VlaForgetError for a value that is none of its.
        what: as in :func:`save`.

    Returns:
        "" or a warning.
    """
    try:
        take(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{what} of before cannot be read, and will begin anew: {path}: {error.strerror}"
    except (ValueError, RecursionError, VlaForgetError) as error:
        return f"{what} of before cannot be used, and will begin anew: {_put_aside(path)}: {error}"
    return ""


def read(path: Path) -> Any:
    """The value of a file, for looking at it.

    Raises:
        SafetyError: 404 where there is none.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SafetyError(
            ErrorCode.SAFETY_BAD_STATE,
            f"no state of a monitor can be read: {error}",
            value=path,
            remedy="name the file of the monitor's parameter state_file",
        ) from error


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
