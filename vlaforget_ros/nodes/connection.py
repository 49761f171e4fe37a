"""One ROS node with a thread of its own, and blocking calls over it: what the client is made of."""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import rclpy
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

from vlaforget_ros.errors import CellError, ErrorCode, VlaForgetError, did_you_mean
from vlaforget_ros.nodes import qos
from vlaforget_ros.nodes.answers import coded_error, timed_out, unanswered
from vlaforget_ros.nodes.topics import TOPICS, Topic

_NUMBERS = itertools.count()
_CANCEL_S = 3.0


def _entry(topic: str) -> Topic:
    known = {entry.name: entry for entry in TOPICS}
    if topic not in known:
        raise VlaForgetError(
            ErrorCode.BRINGUP_BAD_ARGUMENT, "unknown topic", value=topic, remedy=did_you_mean(topic, known)
        )
    return known[topic]


class Connection:
    """Joins the graph. Calls may come from one thread at a time; callbacks run in the connection's thread.

    Args:
        namespace: of the arm, "" for none.
        timeout_s: how long a service may take to appear and to answer [s].
    """

    def __init__(self, namespace: str, timeout_s: float) -> None:
        self._context = Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._timeout_s = timeout_s
        self._node = rclpy.create_node(
            f"vlaforget_client_{os.getpid()}_{next(_NUMBERS)}",
            namespace=namespace,
            context=self._context,
            parameter_overrides=[Parameter("use_sim_time", value=False)],
        )
        self._clients: dict[str, Any] = {}
        self._actions: dict[str, Any] = {}
        self._latest: dict[str, Any] = {}
        self._waiting: list[tuple[str, deque[Any]]] = []
        self._changed = threading.Condition()
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._executor.spin, name="vlaforget_client", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown(timeout_sec=2.0)
        self._thread.join(timeout=2.0)
        for action in self._actions.values():
            action.destroy()
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    # --- topics

    def subscribe(self, topic: str, callback: Callable[..., None]) -> None:
        """Call ``callback`` with every message of a topic of the graph. Raises 605 for an unknown one."""
        entry = _entry(topic)
        self._node.create_subscription(entry.type, topic, callback, qos.recording(entry.qos))

    def publisher(self, topic: str) -> tuple[Any, Callable[[Any], None]]:
        """The message class of a topic of the graph, and what publishes one. Raises 605 for an unknown topic."""
        entry = _entry(topic)
        publish: Callable[[Any], None] = self._node.create_publisher(entry.type, topic, entry.qos).publish
        return entry.type, publish

    def now(self) -> Any:
        """A stamp for a message: the wall clock."""
        return self._node.get_clock().now().to_msg()

    def follow(self, topic: str) -> None:
        """Keep the newest message of a topic for :meth:`latest` and :meth:`wait_for`."""
        self.subscribe(topic, partial(self._keep, topic))

    def latest(self, topic: str) -> Any:
        """The newest message of a followed topic, None before the first."""
        return self._latest.get(topic)

    def wait_for(self, topic: str, accept: Callable[[Any], bool], timeout_s: float | None = None) -> Any:
        """The first message, counting the newest, that ``accept`` takes. Raises CellError 606."""
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        # Each of them in its turn: on a busy machine two may come before who waits for them is woken.
        unseen: deque[Any] = deque()
        entry, end = (topic, unseen), time.monotonic() + timeout_s
        with self._changed:
            if topic in self._latest:
                unseen.append(self._latest[topic])
            self._waiting.append(entry)
            try:
                while True:
                    while unseen:
                        message = unseen.popleft()
                        if accept(message):
                            return message
                    if not self._changed.wait_for(lambda: bool(unseen), max(0.0, end - time.monotonic())):
                        newest = self._latest.get(topic)
                        raise timed_out(f"{topic} did not say so; the newest is {newest}", timeout_s)
            finally:
                self._waiting = [other for other in self._waiting if other is not entry]

    # --- services and actions

    def call(self, service: type, name: str, request: Any, timeout_s: float | None = None) -> Any:
        """The response of a service. Raises CellError 606 when it is not there or does not answer."""
        client = self.find(service, name)
        wait = self._timeout_s if timeout_s is None else timeout_s
        return self._result(client.call_async(request), wait, name)

    def find(self, service: type, name: str) -> Any:
        """The client of a service once its server is there, for :meth:`call`. Raises CellError 606."""
        client = self._client(service, name)
        if not client.wait_for_service(timeout_sec=self._timeout_s):
            raise timed_out(f"service {name} is not there", self._timeout_s)
        return client

    def try_call(self, service: type, name: str, request: Any, timeout_s: float) -> Any | None:
        """As :meth:`call`, None where nobody answers in time: a process may just be starting or dying."""
        client = self._client(service, name)
        if not client.wait_for_service(timeout_sec=timeout_s):
            return None
        future = client.call_async(request)
        try:
            return self._result(future, timeout_s, name)
        except CellError:
            client.remove_pending_request(future)
            return None

    def act(
        self,
        action: type,
        name: str,
        goal: Any,
        feedback: Callable[[Any], None] | None,
        timeout_s: float,
        silence_s: float = math.inf,
    ) -> Any:
        """The result of an action. On a timeout or an interrupt the goal is cancelled and the error raised.

        Args:
            action: its type.
            name: of the action.
            goal: to send.
            feedback: called with each one.
            timeout_s: how long the action may take [s].
            silence_s: how long its server may send no feedback [s]; a server that died never answers.
        """
        if name not in self._actions:
            # In the thread that spins: rclpy shows it to the executor before it is whole, and another thread would end.
            made: Any = self._executor.create_task(lambda: ActionClient(self._node, action, name))
            self._actions[name] = self._result(made, self._timeout_s, name)
        client = self._actions[name]
        if not client.wait_for_server(timeout_sec=self._timeout_s):
            raise timed_out(f"action {name} is not there", self._timeout_s)
        heard = [time.monotonic()]

        def listen(message: Any) -> None:
            heard[0] = time.monotonic()
            if feedback is not None:
                feedback(message.feedback)

        sent = self._in_thread(lambda: client.send_goal_async(goal, listen), name)
        handle = self._result(sent, self._timeout_s, name)
        if not handle.accepted:
            raise coded_error(int(ErrorCode.POLICY_NOT_ACTIVE), f"{name} did not accept the goal")
        result = self._in_thread(handle.get_result_async, name)
        try:
            self._heard_out(result, heard, timeout_s, silence_s, name)
            return result.result().result
        except BaseException:
            self._cancel(handle, name)
            raise

    def _heard_out(
        self, result: Any, heard: list[float], timeout_s: float, silence_s: float, name: str
    ) -> None:
        """Wait for a result as long as its server is heard. Raises CellError 606."""
        done, end = threading.Event(), time.monotonic() + timeout_s
        result.add_done_callback(lambda _: done.set())
        while not done.wait(max(0.0, min(end, heard[0] + silence_s) - time.monotonic())):
            now = time.monotonic()
            if now >= end:
                raise unanswered(name, timeout_s)
            if now - heard[0] >= silence_s:
                raise CellError(
                    ErrorCode.ROS_NO_ANSWER,
                    f"nothing was heard of {name}: its node died or was restarted",
                    limit=f"{silence_s:g} s",
                    remedy="look after the node; one that keeps its state goes on, and may be asked again",
                )

    def _client(self, service: type, name: str) -> Any:
        if name not in self._clients:
            self._clients[name] = self._node.create_client(service, name)
        return self._clients[name]

    def _cancel(self, handle: Any, name: str) -> None:
        """Ask for the end of a goal that nobody waits for any more; a server that is gone needs no asking."""
        try:
            self._result(self._in_thread(handle.cancel_goal_async, name), _CANCEL_S, name)
        except CellError as error:
            self._node.get_logger().warning(f"the goal may still be running: {error}")

    def _in_thread(self, ask: Callable[[], Any], name: str) -> Any:
        """The future of an action request, made in the thread that takes the answers.

        In another thread rclpy's action client breaks on an answer that comes before it has noted the request.
        """
        return self._result(self._executor.create_task(ask), self._timeout_s, name)

    def _result(self, future: Any, timeout_s: float, name: str) -> Any:
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        if not done.wait(timeout_s):
            raise unanswered(name, timeout_s)
        return future.result()

    def _keep(self, topic: str, message: Any) -> None:
        with self._changed:
            self._latest[topic] = message
            for waited, unseen in self._waiting:
                if waited == topic:
                    unseen.append(message)
            self._changed.notify_all()
