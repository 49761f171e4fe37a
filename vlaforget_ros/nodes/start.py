"""How node processes start, and the one clear error where ROS is missing. Imports no ROS itself."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from vlaforget_ros.errors import CellError, ErrorCode, VlaForgetError


def require_ros() -> None:
    """Raises :class:`CellError` 602 where rclpy or the generated interfaces cannot be imported."""
    for module in ("rclpy", "vlaforget_ros.msg"):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise CellError(
                ErrorCode.ROS_MISSING,
                f"this command needs ROS 2: {error}",
                value=module,
                remedy="run `make build` once and then `. ./activate.sh`, or source the workspace's setup",
            ) from error


def run_node(module: str, name: str, args: Sequence[str] | None, **options: Any) -> int:
    """Make a node, bring it up if it shall start itself, and serve until stopped.

    Args:
        module: where the node class is.
        name: the class.
        args: ROS arguments; None takes them from the command line.
        options: of the class.

    Returns:
        0 after a stop by signal, 1 when the node could not be made or could not start itself.
    """
    try:
        require_ros()
    except VlaForgetError as error:
        print(error, file=sys.stderr)
        return 1
    from vlaforget_ros.nodes.spin import serve

    return serve(partial(getattr(importlib.import_module(module), name), **options), args)
