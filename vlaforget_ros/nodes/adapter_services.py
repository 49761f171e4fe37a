"""The services that change or list adapters, over the inference engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node

from vlaforget_ros.errors import VlaForgetError
from vlaforget_ros.msg import AdapterInfo
from vlaforget_ros.nodes.convert import datetime_message
from vlaforget_ros.policy import engine
from vlaforget_ros.policy.engine import InferenceEngine, SwapResult
from vlaforget_ros.srv import ListAdapters, RollbackAdapter, SwapAdapter


class AdapterServices:
    """policy/swap_adapter, policy/rollback and policy/list_adapters.

    Args:
        node: owner of the services.
        served: the engine; its methods may be called from any thread.
        changed: called after every change of the active adapter.
        group: callback group; a swap waits for the disk, so it must not hold up the images.
    """

    def __init__(
        self, node: Node, served: InferenceEngine, changed: Callable[[], None], group: CallbackGroup
    ) -> None:
        self._node = node
        self._engine = served
        self._changed = changed
        self._services: list[Any] = [
            node.create_service(SwapAdapter, "policy/swap_adapter", self._swap, callback_group=group),
            node.create_service(RollbackAdapter, "policy/rollback", self._roll_back, callback_group=group),
            node.create_service(ListAdapters, "policy/list_adapters", self._list, callback_group=group),
        ]

    def close(self) -> None:
        """Take the services down."""
        for service in self._services:
            self._node.destroy_service(service)
        self._services = []

    def _swap(self, request: SwapAdapter.Request, response: SwapAdapter.Response) -> SwapAdapter.Response:
        return self._change("swap", lambda: self._engine.swap(request.adapter), response)

    def _roll_back(
        self, request: RollbackAdapter.Request, response: RollbackAdapter.Response
    ) -> RollbackAdapter.Response:
        return self._change(
            "rollback",
            lambda: self._engine.rollback(
                request.reason, by_operator=not request.automatic, only_from=request.only_from
            ),
            response,
        )

    def _change(self, event: str, change: Callable[[], SwapResult], response: Any) -> Any:
        try:
            result = change()
        except VlaForgetError as error:
            self._node.get_logger().error(f"{event} refused, the active adapter stays: {error}")
            response.error_code, response.message = int(error.code), str(error)
            response.previous_digest = response.active_digest = self._engine.active_digest
            response.effective_step = -1
            return response
        response.success = True
        response.previous_digest, response.active_digest = result.previous_digest, result.active_digest
        response.staged_ms, response.swap_ms = float(result.staged_ms), float(result.swap_ms)
        response.effective_step = result.effective_step
        response.message = f"{event} to {result.active_digest[:12] or 'the base model'}"
        self._node.get_logger().info(f"{response.message} in {result.swap_ms:.3f} ms")
        self._changed()
        return response

    def _list(self, _: ListAdapters.Request, response: ListAdapters.Response) -> ListAdapters.Response:
        try:
            response.adapters = [info_message(info) for info in self._engine.adapters()]
        except VlaForgetError as error:
            response.error_code, response.message = int(error.code), str(error)
            return response
        response.success = True
        return response


def info_message(info: engine.AdapterInfo) -> AdapterInfo:
    """One adapter as a message."""
    return AdapterInfo(
        digest=info.digest,
        name=info.name,
        base_digest=info.base_digest,
        parent_digest=info.parent_digest,
        method=info.method,
        components=list(info.components),
        layers=list(info.layers),
        rank=info.rank,
        bytes=info.bytes,
        created=datetime_message(info.created),
        aliases=list(info.aliases),
        resident=info.resident,
        signer=info.signer,
        gates_passed=info.gates_passed,
    )
