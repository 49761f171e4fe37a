"""A synchronous client of the running graph, for the command line, the demo and tests.

Importing this module raises :class:`CellError` 602 where ROS 2 is missing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from vlaforget_ros.nodes.start import require_ros

require_ros()

from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from vlaforget_ros.action import ExecuteInstruction, RunCanary, Unlearn  # noqa: E402
from vlaforget_ros.errors import ErrorCode, VlaForgetError, did_you_mean  # noqa: E402
from vlaforget_ros.msg import AdapterInfo, CanaryStatus, PolicyStatus, SafetyStatus  # noqa: E402
from vlaforget_ros.nodes.answers import (  # noqa: E402
    CanaryResult,
    EditProgress,
    EditResult,
    RolloutResult,
    SwapInfo,
    canary_result,
    coded_error,
    edit_progress,
    edit_result,
    rollout_result,
    swap_info,
    timed_out,
)
from vlaforget_ros.nodes.connection import Connection  # noqa: E402
from vlaforget_ros.srv import (  # noqa: E402
    FlagViolation,
    ListAdapters,
    ResetCell,
    RollbackAdapter,
    SwapAdapter,
)

_GLANCE_S = 2.0
_POLL_S = 0.05
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
        timeout_s: how long a service may take to appear and to answer, and a status to be waited for [s].
    """

    def __init__(self, namespace: str = "", timeout_s: float = 30.0) -> None:
        self._connection = Connection(namespace, timeout_s)
        for topic in ("policy/status", "safety/status"):
            self._connection.follow(topic)

    def __enter__(self) -> RobotClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the graph."""
        self._connection.close()

    # --- what the graph says

    def subscribe(self, topic: str, callback: Callable[..., None]) -> None:
        """Call ``callback`` with every message of a topic of the graph, named relative to the namespace.

        One that takes two arguments is also given rclpy's message info, with the time of arrival.
        """
        self._connection.subscribe(topic, callback)

    def publisher(self, topic: str) -> tuple[Any, Callable[[Any], None]]:
        """The message class of a topic of the graph and what publishes one, for tests and benchmarks."""
        return self._connection.publisher(topic)

    def now(self) -> Any:
        """A stamp for a message: the wall clock."""
        return self._connection.now()

    @property
    def policy_status(self) -> PolicyStatus | None:
        """The newest policy/status, None before the first."""
        newest: Any = self._connection.latest("policy/status")
        return newest

    @property
    def safety_status(self) -> SafetyStatus | None:
        """The newest safety/status, None before the first."""
        newest: Any = self._connection.latest("safety/status")
        return newest

    def wait_for_safety(
        self, accept: Callable[[SafetyStatus], bool], timeout_s: float | None = None
    ) -> SafetyStatus:
        """The first safety/status, counting the newest, that ``accept`` takes; None: the client's ``timeout_s``."""
        return self._connection.wait_for("safety/status", accept, timeout_s)

    def wait_for_policy(
        self, accept: Callable[[PolicyStatus], bool], timeout_s: float | None = None
    ) -> PolicyStatus:
        """The first policy/status, counting the newest, that ``accept`` takes; None: the client's ``timeout_s``."""
        return self._connection.wait_for("policy/status", accept, timeout_s)

    def wait_until_idle(self) -> PolicyStatus:
        """The first policy/status that says that the policy is active and executes no rollout."""
        return self.wait_for_policy(lambda status: status.state == PolicyStatus.STATE_IDLE)

    # --- life cycle

    def state(self, node: str) -> str:
        """Lifecycle state of a node: unconfigured, inactive, active or finalized."""
        answer = self._connection.call(GetState, f"{node}/get_state", GetState.Request())
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
        if not self._connection.call(ChangeState, f"{node}/change_state", request).success:
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
        answer = self._connection.try_call(GetState, f"{node}/get_state", GetState.Request(), timeout_s)
        label = "" if answer is None else str(answer.current_state.label)
        if label != "active":
            threading.Event().wait(_POLL_S)
        return label

    # --- cell, policy, monitor

    def reset_cell(self, situation: str, seed: int) -> str:
        """Put the simulated cell into a situation; returns the instruction that belongs to it."""
        answer = self._connection.call(
            ResetCell, "cell/reset", ResetCell.Request(situation=situation, seed=seed)
        )
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
        answer = self._connection.act(ExecuteInstruction, "policy/execute", goal, on_step, timeout_s)
        if not answer.rollout_id:
            raise coded_error(answer.error_code, answer.message)
        return rollout_result(answer)

    def swap(self, adapter: str, timeout_s: float | None = None) -> SwapInfo:
        """Swap in an adapter (alias, name, digest, prefix or ``base``).

        Args:
            adapter: which.
            timeout_s: how long to wait for it to be read, checked and tried out [s]; the client's if None.

        Raises:
            AdapterError: it was refused, and the active one stays.
            CellError: 606 without an answer in time; the swap may still come.
        """
        request = SwapAdapter.Request(adapter=adapter)
        return swap_info(self._connection.call(SwapAdapter, "policy/swap_adapter", request, timeout_s))

    def prepare_swap(self) -> None:
        """Find policy/swap_adapter now: looking for a service takes longer than the swap itself."""
        self._connection.find(SwapAdapter, "policy/swap_adapter")

    def rollback(self, reason: str) -> SwapInfo:
        """Back to the adapter before. Raises AdapterError 109 when there is none."""
        return swap_info(
            self._connection.call(RollbackAdapter, "policy/rollback", RollbackAdapter.Request(reason=reason))
        )

    def list_adapters(self) -> list[AdapterInfo]:
        """Adapters of the store, oldest first."""
        answer = self._connection.call(ListAdapters, "policy/list_adapters", ListAdapters.Request())
        if not answer.success:
            raise coded_error(answer.error_code, answer.message)
        return list(answer.adapters)

    def flag(self, rule: str, note: str = "") -> str:
        """Mark the running rollout as an operator; returns the violation's id. Raises SafetyError 402."""
        answer = self._connection.call(
            FlagViolation, "safety/flag", FlagViolation.Request(rule=rule, note=note)
        )
        if not answer.success:
            raise coded_error(answer.error_code, answer.message)
        return str(answer.violation_id)

    def release(self) -> str:
        """Acknowledge a latched stop; returns what the monitor says. Raises SafetyError 400."""
        answer = self._connection.call(Trigger, "safety/release", Trigger.Request())
        if not answer.success:
            raise coded_error(int(ErrorCode.SAFETY_STOPPED), answer.message)
        return str(answer.message)

    # --- canary

    def run_canary(
        self,
        candidate: str,
        protocol: str = "",
        on_status: Callable[[CanaryStatus], None] | None = None,
        timeout_s: float = 7 * 24 * 3600.0,
        silence_s: float = 60.0,
    ) -> CanaryResult:
        """Test a candidate against the adapter that serves, to the verdict. On an interrupt it is cancelled: HOLD.

        Somebody else gives the arm its instructions meanwhile.

        Args:
            candidate: alias, name, digest or unique prefix.
            protocol: path of a protocol file, as the safety monitor node sees it; "" for the default one.
            on_status: called with every status.
            timeout_s: how long it may take [s].
            silence_s: how long the monitor, which tells where it stands all the time, may be silent [s].

        Raises:
            CanaryError: it was refused, or its verdict could not be carried out.
            CellError: 606 the monitor went silent. One that was restarted and keeps its state goes on: to ask for the
                same candidate and protocol again is to wait for it.
        """
        goal = RunCanary.Goal(candidate=candidate, protocol=protocol)
        told = on_status
        feedback = None if told is None else lambda message: told(message.status)
        answer = self._connection.act(RunCanary, "canary/run", goal, feedback, timeout_s, silence_s)
        return canary_result(answer)

    def approve_canary(self) -> str:
        """Agree to the promotion that waits for an operator; returns what the monitor says."""
        answer = self._connection.call(Trigger, "canary/approve", Trigger.Request())
        if not answer.success:
            raise coded_error(int(ErrorCode.CANARY_NOT_AWAITED), answer.message)
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
        answer = self._connection.act(Unlearn, "unlearning/edit", goal, feedback, timeout_s)
        if not answer.success:
            raise coded_error(answer.error_code, answer.message)
        return edit_result(answer)
