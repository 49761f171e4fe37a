"""What the lifecycle nodes share: parameters, coded failures, self-start, one place that closes things."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from vlaforget_ros.errors import VlaForgetError
from vlaforget_ros.nodes import parameters
from vlaforget_ros.nodes.parameters import Parameter

_AUTOSTART = Parameter("autostart", False, "Configure and activate without a lifecycle manager.")


class VlaNode(LifecycleNode):
    """A lifecycle node whose hooks may raise :class:`VlaForgetError`: the transition then fails and says why.

    Subclasses fill ``specs``, ``configure``, ``activate``, ``deactivate`` and ``release``.

    Args:
        name: node name.
        namespace: absolute, in place of the one that the command line gives; None: that one.
    """

    specs: Sequence[Parameter] = ()
    threads = 1

    def __init__(self, name: str, namespace: str | None = None) -> None:
        # A remapping on the command line goes before an argument of the constructor; one of the node's own does not.
        own = None if namespace is None else ["--ros-args", "-r", f"__ns:={namespace}"]
        super().__init__(name, cli_args=own)
        self._specs = (_AUTOSTART, *self.specs)
        parameters.declare(self, self._specs)
        self.add_on_set_parameters_callback(self._on_change)
        self.steady = Clock(clock_type=ClockType.STEADY_TIME)

    def configure(self, values: Mapping[str, Any]) -> None:
        """Make everything the node holds, from checked parameter values."""

    def check(self, name: str, value: Any) -> None:
        """Look at a value that a parameter is set to later, beyond its type and range; raise to refuse it."""

    def activate(self) -> None:
        """Begin to act."""

    def deactivate(self) -> None:
        """Stop acting, keep everything."""

    def release(self) -> None:
        """Free everything ``configure`` made; also called when that was only half done."""

    def start_itself(self) -> bool:
        """Configure and activate when the parameter ``autostart`` says so; False when that failed."""
        if self.get_parameter("autostart").value is not True:
            return True
        done = TransitionCallbackReturn.SUCCESS
        return self.trigger_configure() == done and self.trigger_activate() == done

    def close(self) -> None:
        """Stop and free, in whatever state; the process is about to end."""
        self.deactivate()
        self.release()

    def _on_change(self, changed: Sequence[Any]) -> SetParametersResult:
        """What the next configure would refuse is refused now, while what was configured goes on as it is."""
        known = {spec.name: spec for spec in self._specs}
        try:
            for parameter in changed:
                if parameter.name in known:
                    self.check(parameter.name, known[parameter.name].check(parameter.value))
        except VlaForgetError as error:
            return SetParametersResult(successful=False, reason=str(error))
        names = ", ".join(parameter.name for parameter in changed if parameter.name in known)
        if names:
            self.get_logger().info(f"takes effect when the node is next configured: {names}")
        return SetParametersResult(successful=True)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Lifecycle hook."""
        try:
            self.configure(parameters.read(self, self._specs))
        except VlaForgetError as error:
            self.get_logger().error(f"cannot configure: {error}")
            self.release()
            return TransitionCallbackReturn.FAILURE
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Lifecycle hook."""
        managed = super().on_activate(state)
        try:
            self.activate()
        except VlaForgetError as error:
            self.get_logger().error(f"cannot activate: {error}")
            super().on_deactivate(state)
            return TransitionCallbackReturn.FAILURE
        self.get_logger().info("active")
        return managed

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Lifecycle hook."""
        self.deactivate()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Lifecycle hook."""
        self.release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Lifecycle hook."""
        self.close()
        return super().on_shutdown(state)
