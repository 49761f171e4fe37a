"""How much memory the control groups of this process (a container, a systemd unit) leave it; Linux, versions 1 and 2.

The system's own figure is the machine's. A process that takes more than its group may have is killed all the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class _Names:
    """Files of one version, and in ``memory.stat`` the pages of files: Linux drops these before it kills."""

    limits: tuple[str, ...]
    used: str
    droppable: tuple[str, ...]


_V1 = _Names(
    ("memory.limit_in_bytes",), "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")
)
_V2 = _Names(("memory.max", "memory.high"), "memory.current", ("inactive_file", "active_file"))


def left_mb(mount: Path = MOUNT, membership: Path = MEMBERSHIP) -> float:
    """Memory [MB] that the tightest group leaves; infinite where none limits it, or none can be read.

    Args:
        mount: where control groups are mounted.
        membership: says which groups the process belongs to.
    """
    return min((_left(folder, names) for folder, names in _groups(mount, membership)), default=math.inf) / 1e6


def _groups(mount: Path, membership: Path) -> Iterator[tuple[Path, _Names]]:
    """Every group that counts the process: its own and those around it."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, names = (mount / "memory", _V1) if controllers else (mount, _V2)
        # In a container the path may be the host's, which is not there: the root is then the container's own group.
        parts = [] if ".." in path else path.strip("/").split("/")
        for depth in range(len(parts) + 1):
            yield root.joinpath(*parts[:depth]), names


def _left(folder: Path, names: _Names) -> float:
    """Bytes; infinite for a group without a limit or without these files."""
    limits = [_number(folder / name) for name in names.limits if (folder / name).is_file()]
    used = _number(folder / names.used)
    if not limits or math.isinf(min(limits)) or math.isinf(used):
        return math.inf
    try:
        stat = dict(
            line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
        )
    except (OSError, ValueError):
        stat = {}
    droppable = sum(float(stat.get(name, 0)) for name in names.droppable)
    return max(0.0, min(limits) - used + droppable)


def _number(path: Path) -> float:
    try:
        text = path.read_text(encoding="utf-8").strip()
        return math.inf if text == "max" else float(text)
    except (OSError, ValueError):
        return math.inf
