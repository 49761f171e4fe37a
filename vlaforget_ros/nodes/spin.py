"""Serving lifecycle nodes until SIGINT or SIGTERM, and always closing what they hold."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import FrameType

import rclpy
from rclpy.executors import Executor, MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.signals import SignalHandlerOptions

from vlaforget_ros.nodes.base import VlaNode

_LOOK_S = 0.25
_PAUSE_S = 0.0005
_MOST_STUMBLES = 100


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
    server = _Server(nodes, executor, _PAUSE_S if threads > 1 else 0.0)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        server.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    server.start()
    # Not for ever at a time: Python runs a handler when the main thread does something next, and a signal that comes
    # just before it waits, or to another thread, does not wake it.
    while server.is_alive():
        server.join(_LOOK_S)
    # A terminal's Ctrl-C and launch both signal: the second one must not kill an interpreter that is closing down.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    executor.shutdown(timeout_sec=2.0)
    for node in nodes:
        node.destroy_node()
    rclpy.try_shutdown()
    return server.status


class _Server(threading.Thread):
    def __init__(self, nodes: Sequence[VlaNode], executor: Executor, pause_s: float) -> None:
        super().__init__(name="spin")
        self._nodes, self._pause_s = nodes, pause_s
        self._spinner = executor
        self._over = threading.Event()
        self._stumbles = 0
        self.status = 1

    def stop(self) -> None:
        self._over.set()
        self._spinner.wake()

    def run(self) -> None:
        try:
            if all(node.start_itself() for node in self._nodes):
                # A quarter of a million objects of libraries that stay: a full collection would look at each of them
                # while an arm waits.
                gc.collect()
                gc.freeze()
                while not self._over.is_set():
                    # Waking an executor that has nothing to do does not make it return: it must look by
                    # itself.
                    self._spin_once()
                    # With worker threads rclpy hands a callback out again and again until one has begun it, holding the
                    # interpreter's lock, so that it cannot begin: without this pause control ticks are late. A single
                    # thread has run the callback by now, and a pause would only delay the next one.
                    if self._pause_s:
                        self._over.wait(self._pause_s)
                self.status = 0
        finally:
            with ExitStack() as closing:
                for node in self._nodes:
                    closing.callback(node.close)

    def _spin_once(self) -> None:
        """One look at what is ready, over an action server or event that another thread has just destroyed.

        An arm that is cleaned up frees its own in a worker thread, and rclpy may have counted them for its next wait
        already: it then raises, which would end the arms that go on. At the next look they are gone.
        """
        try:
            self._spinner.spin_once(timeout_sec=_LOOK_S)
        except (rclpy_implementation.RCLError, rclpy_implementation.InvalidHandle) as error:
            self._stumbles += 1
            if self._stumbles > _MOST_STUMBLES:
                raise
            self._nodes[0].get_logger().warning(f"destroyed while it was waited for: {error}")
        else:
            self._stumbles = 0
