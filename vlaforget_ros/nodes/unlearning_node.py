"""The unlearning node: each edit in a child process, its adapter into the store, the policy untouched."""

from __future__ import annotations

import array
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup

from vlaforget_ros.action import Unlearn
from vlaforget_ros.adapters.store import AdapterStore
from vlaforget_ros.errors import ErrorCode, UnlearningError, VlaForgetError
from vlaforget_ros.nodes.base import VlaNode
from vlaforget_ros.nodes.parameters import Parameter
from vlaforget_ros.paths import checkpoint_directory
from vlaforget_ros.unlearning.process import Done, EditProcess, Progress, edit_command
from vlaforget_ros.unlearning.request import Request, read_request

PARAMETERS = (
    Parameter("store", "runs/adapters", "Folder of the adapter store."),
    Parameter("runs", "runs/edits", "Folder with one folder an edit: request, stages, log, report."),
    Parameter(
        "edit_share", 1.0, "Share of the time that an edit may work; the policy has the rest.", "", 0.05, 1.0
    ),
    Parameter(
        "share_weights",
        True,
        "Edit on the base weights of a policy that lends them, where the edit would else hold a copy.",
    ),
    Parameter("child", "vlaforget_ros.unlearning.child", "Python module that carries an edit out."),
)


class UnlearningNode(VlaNode):
    """One edit at a time; the node's threads only pass messages on."""

    specs = PARAMETERS
    threads = 3

    def __init__(self) -> None:
        super().__init__("unlearning_node")
        self._server: Any = None
        self._active = False
        self._edit: EditProcess | None = None
        self._lock = threading.Lock()

    def configure(self, values: Mapping[str, Any]) -> None:
        """Make the action server."""
        self._store = AdapterStore(Path(values["store"]))
        self._runs = Path(values["runs"])
        self._child, self._share = values["child"], values["edit_share"]
        self._own_weights = not values["share_weights"]
        self._server = ActionServer(
            self,
            Unlearn,
            "unlearning/edit",
            self._execute,
            callback_group=ReentrantCallbackGroup(),
            goal_callback=lambda _: GoalResponse.ACCEPT,
            cancel_callback=self._on_cancel,
        )

    def activate(self) -> None:
        """Accept goals."""
        self._active = True

    def deactivate(self) -> None:
        """Cancel the running edit; its finished stages stay."""
        self._active = False
        if self._edit is not None:
            self._edit.cancel()
        # Let the goal say so before the action server goes.
        if self._lock.acquire(timeout=30.0):
            self._lock.release()

    def release(self) -> None:
        """Free the action server."""
        if self._server is not None:
            self._server.destroy()
            self._server = None

    def _on_cancel(self, _: Any) -> CancelResponse:
        if self._edit is not None:
            self._edit.cancel()
        return CancelResponse.ACCEPT

    def _execute(self, handle: Any) -> Unlearn.Result:
        result = Unlearn.Result()
        if not self._lock.acquire(blocking=False):
            busy = UnlearningError(
                ErrorCode.UNLEARNING_BUSY, "another edit is running", remedy="wait for it, or cancel it"
            )
            return self._fail(handle, result, busy)
        try:
            done = self._run(handle)
            # The child has read, trained and judged; only now does anything shared change.
            manifest = self._store.add(done.directory, done.provenance)
            self._report(Path(done.report).parent)
        except VlaForgetError as error:
            return self._fail(handle, result, error)
        finally:
            self._edit = None
            self._lock.release()
        result.success = True
        result.adapter_digest, result.report = manifest.digest, done.report
        result.metric_names = list(done.metrics)
        result.metric_values = array.array("d", done.metrics.values())
        result.message = f"adapter {manifest.name} {manifest.digest[:12]}"
        if not manifest.gates_passed:
            result.message += " failed its gates: it cannot become stable"
        result.message = "; ".join([result.message, *done.remarks])
        self.get_logger().info(result.message)
        handle.succeed()
        return result

    def _run(self, handle: Any) -> Done:
        if not self._active:
            raise UnlearningError(ErrorCode.POLICY_NOT_ACTIVE, "the unlearning node is not active")
        goal = handle.request
        request = self._request(goal.request, goal.name)
        folder = self._runs / request.name
        file = _write_request(folder, request)
        command = edit_command(
            self._child, file, folder, self._store.root, goal.resume, self._share, self._own_weights
        )
        edit = EditProcess(command, folder / "child.log", self.get_logger().info)
        self._edit = edit
        self.get_logger().info(f"edit {request.name} runs as process {edit.pid}; log in {folder}/child.log")
        if handle.is_cancel_requested:
            edit.cancel()
        finished: Done | None = None
        for event in edit.events():
            if isinstance(event, Done):
                finished = event
            else:
                handle.publish_feedback(_feedback(event))
        if finished is None:
            raise UnlearningError(ErrorCode.UNLEARNING_KILLED, "the edit ended without a result")
        return finished

    def _report(self, folder: Path) -> None:
        """The page for people, beside the record. The adapter is in the store by now: nothing here may undo that."""
        # Plots and templates are a second's import that no other part of the node needs.
        from vlaforget_ros.report.page import report_edit

        try:
            page = report_edit(folder)
        except (VlaForgetError, OSError) as error:
            self.get_logger().warning(f"the edit is finished, but has no report: {error}")
            return
        self.get_logger().info(f"report {page}")

    def _request(self, text: str, name: str) -> Request:
        request = read_request(text)
        return request.model_copy(update={"name": name}) if name else request

    def _fail(self, handle: Any, result: Unlearn.Result, error: VlaForgetError) -> Unlearn.Result:
        self.get_logger().error(f"no adapter was made: {error}")
        result.error_code, result.message = int(error.code), str(error)
        if handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.abort()
        return result


def _write_request(folder: Path, request: Request) -> Path:
    """The request as it will be carried out, paths resolved, in the folder of the edit."""
    if "/" in request.name or request.name.startswith("."):
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAD_REQUEST,
            "the name cannot be that of a folder",
            value=request.name,
            remedy="use letters, digits, - and _",
        )
    absolute = {
        "base": str(checkpoint_directory(request.base)),
        "bags": [str(Path(bag).resolve()) for bag in request.bags],
    }
    path = folder / "request.yaml"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        content = {**request.model_dump(mode="json"), **absolute}
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAD_REQUEST,
            f"the folder of the edit cannot be written: {error.strerror}",
            value=str(folder),
            remedy="free space, or set the parameter runs to another folder",
        ) from error
    return path


def _feedback(progress: Progress) -> Unlearn.Feedback:
    message = Unlearn.Feedback(stage=progress.stage, round=progress.round, step=progress.step)
    message.total_steps = progress.total_steps
    message.loss_names = list(progress.losses)
    message.loss_values = array.array("f", progress.losses.values())
    message.eta_s, message.peak_memory_mb = progress.eta_s, progress.peak_mb
    message.doing = progress.doing
    return message
