"""A synchronous client of the running graph, for the command line, the demo and tests.

Importing this module raises :class:`CellError` 602 where ROS 2 is missing.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any

from vlaforget_ros.nodes.start import require_ros

require_ros()

import rclpy  # noqa: E402
from lifecycle_msgs.msg import State, Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402
from rclpy.action import ActionClient  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.signals import SignalHandlerOptions  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from vlaforget_ros.action import ExecuteInstruction, Unlearn  # noqa: E402
from vlaforget_ros.errors import CellError, ErrorCode, VlaForgetError, did_you_mean  # noqa: E402
from vlaforget_ros.msg import AdapterInfo, PolicyStatus, SafetyStatus  # noqa: E402
from vlaforget_ros.nodes import qos  # noqa: E402
from vlaforget_ros.nodes.answers import (  # noqa: E402
    EditProgress,
    EditResult,
    RolloutResult,
    SwapInfo,
    coded_error,
    edit_progress,
    edit_result,
    rollout_result,
    swap_info,
    timed_out,
)
from vlaforget_ros.nodes.topics import TOPICS  # noqa: E402
from vlaforget_ros.srv import (  # noqa: E402
    FlagViolation,
    ListAdapters,
    ResetCell,
    RollbackAdapter,
    SwapAdapter,
)

_NUMBERS = itertools.count()
_GLANCE_S = 2.0
_POLL_S = 0.05
_CANCEL_S = 3.0
_TRANSITIONS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
    "cleanup": Transition.TRANSITION_CLEANUP,
}


class RobotClient:
    """Talks to the nodes of one arm. Methods block and may be called from one thread at a time.

    Callbacks run in the client's own thread: they must be quick and must not call the client.

    Args:
        namespace: of the arm, "" for none.
        timeout_s: how long a service may take to appear and to answer [s].
        context: an rclpy context to share; by default the client makes its own, without signal handlers.
    """

    def __init__(self, namespace: str = "", timeout_s: float = 30.0, context: Any = None) -> None:
        self._context = context or rclpy.Context()
        self._owns_context = context is None
        if self._owns_context:
            rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._timeout_s = timeout_s
        self._node = rclpy.create_node(
            f"vlaforget_client_{os.getpid()}_{next(_NUMBERS)}",
            namespace=namespace,
            context=self._context,
            parameter_overrides=[Parameter("use_sim_time", value=False)],
        )
        self._clients: dict[str, Any] = {}
        self._latest: dict[str, Any] = {}
        self._changed = threading.Condition()
        for topic in ("policy/status", "safety/status"):
            self.subscribe(topic, partial(self._keep, topic))
        self._execute: Any = ActionClient(self._node, ExecuteInstruction, "policy/execute")
        self._edit: Any = ActionClient(self._node, Unlearn, "unlearning/edit")
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._executor.spin, name="vlaforget_client", daemon=True)
        self._thread.start()

    def __enter__(self) -> RobotClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown(timeout_sec=2.0)
        self._thread.join(timeout=2.0)
        self._execute.destroy()
        self._edit.destroy()
        self._node.destroy_node()
        if self._owns_context:
            rclpy.try_shutdown(context=self._context)

    # --- what the graph says

    def subscribe(self, topic: str, callback: Callable[[Any], None]) -> None:
        """Call ``callback`` with every message of a topic of the graph, named relative to the namespace."""
        known = {entry.name: entry for entry in TOPICS}
        if topic not in known:
            raise VlaForgetError(
                ErrorCode.BRINGUP_BAD_ARGUMENT,
                "unknown topic",
                value=topic,
                remedy=did_you_mean(topic, known),
            )
        entry = known[topic]
        self._node.create_subscription(entry.type, topic, callback, qos.recording(entry.qos))

    @property
    def policy_status(self) -> PolicyStatus | None:
        """The newest policy/status, None before the first."""
        return self._latest.get("policy/status")

    @property
    def safety_status(self) -> SafetyStatus | None:
        """The newest safety/status, None before the first."""
        return self._latest.get("safety/status")

    def wait_for_safety(
        self, accept: Callable[[SafetyStatus], bool], timeout_s: float = 10.0
    ) -> SafetyStatus:
        """The first safety/status, counting the newest, that ``accept`` takes."""
        return self._wait_for("safety/status", accept, timeout_s)

    def wait_for_policy(
        self, accept: Callable[[PolicyStatus], bool], timeout_s: float = 10.0
    ) -> PolicyStatus:
        """The first policy/status, counting the newest, that ``accept`` takes."""
        return self._wait_for("policy/status", accept, timeout_s)

    # --- life cycle

    def state(self, node: str) -> str:
        """Lifecycle state of a node: unconfigured, inactive, active or finalized."""
        answer = self._call(GetState, f"{node}/get_state", GetState.Request())
        return str(answer.current_state.label)

    def change_state(self, node: str, transition: str) -> None:
        """configure, activate, deactivate or cleanup. Raises when the node refuses; its log says why."""
        if transition not in _TRANSITIONS:
            raise VlaForgetError(
                ErrorCode.BRINGUP_BAD_ARGUMENT,
                "unknown transition",
                value=transition,
                remedy=did_you_mean(transition, _TRANSITIONS),
            )
        request = ChangeState.Request(transition=Transition(id=_TRANSITIONS[transition]))
        if not self._call(ChangeState, f"{node}/change_state", request).success:
            raise VlaForgetError(
                ErrorCode.POLICY_NOT_ACTIVE,
                f"{node} refused to {transition}",
                value=self.state(node),
                remedy="read the node's log",
            )

    def wait_until_ready(self, nodes: Sequence[str], timeout_s: float = 60.0) -> None:
        """Wait until all nodes are active. Raises CellError 606, naming the one that is not."""
        end = time.monotonic() + timeout_s
        for node in nodes:
            label = ""
            while label != "active":
                left_s = end - time.monotonic()
                if left_s <= 0.0:
                    raise timed_out(f"{node} is {label or 'not there'}, not active", timeout_s)
                label = self._glance(node, min(left_s, _GLANCE_S))

    def _glance(self, node: str, timeout_s: float) -> str:
        """Lifecycle state of a node, "" when it does not answer at once: it may just be starting or dying."""
        client = self._client(GetState, f"{node}/get_state")
        if not client.wait_for_service(timeout_sec=timeout_s):
            return ""
        future = client.call_async(GetState.Request())
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        if not done.wait(timeout_s):
            client.remove_pending_request(future)
            return ""
        if future.result().current_state.id != State.PRIMARY_STATE_ACTIVE:
            threading.Event().wait(_POLL_S)
        return str(future.result().current_state.label)

    # --- cell, policy, monitor

    def reset_cell(self, situation: str, seed: int) -> str:
        """Put the simulated cell into a situation; returns the instruction that belongs to it."""
        answer = self._call(ResetCell, "cell/reset", ResetCell.Request(situation=situation, seed=seed))
        if not answer.success:
            raise coded_error(answer.error_code, answer.message)
        return str(answer.instruction)

    def execute(
        self,
        instruction: str,
        max_steps: int = 0,
        adapter: str = "",
        seed: int = 0,
        on_step: Callable[[Any], None] | None = None,
        timeout_s: float = 600.0,
    ) -> RolloutResult:
        """One rollout, to its end. On an interrupt or a timeout the goal is cancelled.

        Raises:
            VlaForgetError: the goal was refused, with the code of the reason.
        """
        goal = ExecuteInstruction.Goal(
            instruction=instruction, max_steps=max_steps, adapter=adapter, seed=seed
        )
        answer = self._act(self._execute, goal, on_step, timeout_s, "policy/execute")
        if not answer.rollout_id:
            raise coded_error(answer.error_code, answer.message)
        return rollout_result(answer)

    def swap(self, adapter: str) -> SwapInfo:
        """Swap in an adapter (alias, name, digest, prefix or ``base``). Raises AdapterError."""
        return swap_info(self._call(SwapAdapter, "policy/swap_adapter", SwapAdapter.Request(adapter=adapter)))

    def rollback(self, reason: str) -> SwapInfo:
        """Back to the adapter before. Raises AdapterError 109 when there is none."""
        return swap_info(
            self._call(RollbackAdapter, "policy/rollback", RollbackAdapter.Request(reason=reason))
        )

    def list_adapters(self) -> list[AdapterInfo]:
        """Adapters of the store, oldest first."""
        answer = self._call(ListAdapters, "policy/list_adapters", ListAdapters.Request())
        if not answer.success:
            raise coded_error(answer.error_code, answer.message)
        return list(answer.adapters)

    def flag(self, rule: str, note: str = "") -> str:
        """Mark the running rollout as an operator; returns the violation's id. Raises SafetyError 402."""
        answer = self._call(FlagViolation, "safety/flag", FlagViolation.Request(rule=rule, note=note))
        if not answer.success:
            raise coded_error(answer.error_code, answer.message)
        return str(answer.violation_id)

    def release(self) -> str:
        """Acknowledge a latched stop; returns what the monitor says. Raises SafetyError 400."""
        answer = self._call(Trigger, "safety/release", Trigger.Request())
        if not answer.success:
            raise coded_error(int(ErrorCode.SAFETY_STOPPED), answer.message)
        return str(answer.message)

    # --- unlearning

    def edit(
        self,
        request: str,
        name: str,
        resume: bool = False,
        on_progress: Callable[[EditProgress], None] | None = None,
        timeout_s: float = 3600.0,
    ) -> EditResult:
        """Run an edit to its end. On an interrupt or a timeout it is cancelled.

        Args:
            request: path of a request file, or its YAML text.
            name: name of the adapter to make.
            resume: go on after the last finished stage of the run of this name.
            on_progress: called with every progress report.
            timeout_s: how long it may take [s].

        Raises:
            UnlearningError: it failed; finished stages stay on disk.
        """
        goal = Unlearn.Goal(request=request, name=name, resume=resume)
        report = on_progress
        feedback = None if report is None else lambda message: report(edit_progress(message))
        answer = self._act(self._edit, goal, feedback, timeout_s, "unlearning/edit")
        if not answer.success:
            raise coded_error(answer.error_code, answer.message)
        return edit_result(answer)

    # --- parts

    def _keep(self, topic: str, message: Any) -> None:
        with self._changed:
            self._latest[topic] = message
            self._changed.notify_all()

    def _wait_for(self, topic: str, accept: Callable[[Any], bool], timeout_s: float) -> Any:
        def there() -> bool:
            return topic in self._latest and accept(self._latest[topic])

        with self._changed:
            if not self._changed.wait_for(there, timeout_s):
                raise timed_out(f"{topic} did not say so; the newest is {self._latest.get(topic)}", timeout_s)
            return self._latest[topic]

    def _client(self, service: type, name: str) -> Any:
        if name not in self._clients:
            self._clients[name] = self._node.create_client(service, name)
        return self._clients[name]

    def _call(self, service: type, name: str, request: Any) -> Any:
        client = self._client(service, name)
        if not client.wait_for_service(timeout_sec=self._timeout_s):
            raise timed_out(f"service {name} is not there", self._timeout_s)
        return self._result(client.call_async(request), self._timeout_s, name)

    def _act(self, client: Any, goal: Any, feedback: Any, timeout_s: float, name: str) -> Any:
        if not client.wait_for_server(timeout_sec=self._timeout_s):
            raise timed_out(f"action {name} is not there", self._timeout_s)
        listen = None if feedback is None else lambda message: feedback(message.feedback)
        handle = self._result(client.send_goal_async(goal, listen), self._timeout_s, name)
        if not handle.accepted:
            raise coded_error(int(ErrorCode.POLICY_NOT_ACTIVE), f"{name} did not accept the goal")
        result = handle.get_result_async()
        try:
            return self._result(result, timeout_s, name).result
        except BaseException:
            self._cancel(handle, name)
            raise

    def _cancel(self, handle: Any, name: str) -> None:
        """Ask for the end of a goal that nobody waits for any more; a server that is gone needs no asking."""
        try:
            self._result(handle.cancel_goal_async(), _CANCEL_S, name)
        except CellError as error:
            self._node.get_logger().warning(f"the goal may still be running: {error}")

    def _result(self, future: Any, timeout_s: float, name: str) -> Any:
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        if not done.wait(timeout_s):
            raise timed_out(f"{name} did not answer", timeout_s)
        return future.result()
