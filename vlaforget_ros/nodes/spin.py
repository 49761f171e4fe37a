"""Serving one lifecycle node until SIGINT or SIGTERM, and always closing what it holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import rclpy
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor, SingleThreadedExecutor

from vlaforget_ros.nodes.base import VlaNode


def serve(make: Callable[[], VlaNode], args: Sequence[str] | None) -> int:
    """Spin one node; returns the exit status (1 when it could not start itself)."""
    rclpy.init(args=list(args) if args is not None else None)
    node = make()
    executor = SingleThreadedExecutor() if node.threads == 1 else MultiThreadedExecutor(node.threads)
    executor.add_node(node)
    try:
        if not node.start_itself():
            return 1
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        # Both mean: somebody asked this process to end.
        return 0
    finally:
        node.close()
        executor.shutdown(timeout_sec=2.0)
        node.destroy_node()
        rclpy.try_shutdown()
    return 0
