"""Message types of other packages: their .msg files, as every ROS installation has them, into the typestore.

A bag carries the definition of each of its types. For the common packages and this one they are at hand; those of a
robot's own packages lie in ``share/PACKAGE/msg`` of the workspaces that were sourced.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rosbags.interfaces import Nodetype
from rosbags.typesys import TypesysError, get_types_from_msg

from vlaforget_ros.episodes.messages import typestore

_LOCK = threading.Lock()


def sourced() -> list[Path]:
    """Share folders of the environment, nearest first (AMENT_PREFIX_PATH)."""
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    return [Path(prefix) / "share" for prefix in prefixes if prefix]


def learn(msgtype: str, shares: Iterable[Path]) -> bool:
    """Make a type and all it consists of known; False when a definition is missing or is none.

    Args:
        msgtype: such as ``franka_msgs/msg/FrankaState``.
        shares: folders with one folder a package.
    """
    with _LOCK:
        if msgtype in typestore().fielddefs:
            return True
        found: dict[str, Any] = {}
        folders = list(shares)
        missing = [msgtype]
        while missing:
            name = missing.pop()
            if name in found or name in typestore().fielddefs:
                continue
            parts = name.split("/")
            if len(parts) != 3:
                return False
            files = [folder / parts[0] / "msg" / f"{parts[2]}.msg" for folder in folders]
            file = next((file for file in files if file.is_file()), None)
            if file is None:
                return False
            try:
                types = get_types_from_msg(file.read_text(encoding="utf-8"), name)
            except (TypesysError, OSError, UnicodeDecodeError):
                return False
            found.update(types)
            missing += [
                inner for _, fields in types.values() for _, field in fields for inner in _names(field)
            ]
        typestore().register(found)
        return True


def _names(field: Any) -> list[str]:
    """Types of other messages that a field of rosbags' typestore is made of."""
    kind, inner = field
    if kind == Nodetype.NAME:
        return [inner]
    return [] if kind == Nodetype.BASE else _names(inner[0])
