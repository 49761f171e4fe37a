"""Serving lifecycle nodes until SIGINT or SIGTERM, and always closing what they hold."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import FrameType

import rclpy
from rclpy.executors import Executor, MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from vlaforget_ros.nodes.base import VlaNode

_LOOK_S = 0.25
_PAUSE_S = 0.0005


def serve(make: Callable[[], VlaNode | Sequence[VlaNode]], args: Sequence[str] | None) -> int:
    """Spin the nodes of this process; returns the exit status (1 when one could not start itself).

    rclpy's own signal handlers would shut the context down first: then nobody could be told that the running
    rollout ended. So the main thread waits for the signal, and the nodes live and close in a thread of their
    own.
    """
    rclpy.init(args=list(args) if args is not None else None, signal_handler_options=SignalHandlerOptions.NO)
    made = make()
    nodes = [made] if isinstance(made, VlaNode) else list(made)
    threads = sum(node.threads for node in nodes)
    executor = SingleThreadedExecutor() if threads == 1 else MultiThreadedExecutor(threads)
    for node in nodes:
        executor.add_node(node)
    server = _Server(nodes, executor)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        server.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    server.start()
    server.join()
    # A terminal's Ctrl-C and launch both signal: the second one must not kill an interpreter that is closing down.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    executor.shutdown(timeout_sec=2.0)
    for node in nodes:
        node.destroy_node()
    rclpy.try_shutdown()
    return server.status


class _Server(threading.Thread):
    def __init__(self, nodes: Sequence[VlaNode], executor: Executor) -> None:
        super().__init__(name="spin")
        self._nodes = nodes
        self._spinner = executor
        self._over = threading.Event()
        self.status = 1

    def stop(self) -> None:
        self._over.set()
        self._spinner.wake()

    def run(self) -> None:
        try:
            if all(node.start_itself() for node in self._nodes):
                while not self._over.is_set():
                    # Waking an executor that has nothing to do does not make it return: it must look by
                    # itself.
                    self._spinner.spin_once(timeout_sec=_LOOK_S)
                    # rclpy hands a callback out again and again until a worker thread has begun it, holding the
                    # interpreter's lock, so that the worker cannot begin: without this pause control ticks are late.
                    self._over.wait(_PAUSE_S)
                self.status = 0
        finally:
            with ExitStack() as closing:
                for node in self._nodes:
                    closing.callback(node.close)
