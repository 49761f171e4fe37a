"""Parameters: declared once with type, default, unit, range and description, checked at configure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import ParameterException
from rclpy.node import Node

from vlaforget_ros.errors import ErrorCode, PolicyError, did_you_mean

Value = bool | int | float | str


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    Args:
        name: as in the YAML file.
        default: its type is the parameter's type.
        description: one line.
        unit: SI unit, "" for none.
        low: smallest value (numbers).
        high: largest value (numbers).
        choices: accepted texts (str), () for any.
    """

    name: str
    default: Value
    description: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def limit(self) -> str:
        """The accepted values, as a text."""
        if self.choices:
            return ", ".join(self.choices)
        kind = type(self.default).__name__
        if self.low is None or self.high is None:
            return kind
        return f"{kind} {self.low:g}..{self.high:g}{' ' + self.unit if self.unit else ''}"

    def descriptor(self) -> ParameterDescriptor:
        """What `ros2 param describe` shows, and what rclpy enforces on later changes."""
        described = ParameterDescriptor(
            description=self.description, additional_constraints=self.limit, dynamic_typing=True
        )
        if self.low is not None and self.high is not None:
            if isinstance(self.default, float):
                described.floating_point_range = [FloatingPointRange(from_value=self.low, to_value=self.high)]
            else:
                low, high = int(self.low), int(self.high)
                described.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
        return described

    def check(self, value: Any) -> Any:
        """The value in the parameter's type.

        Raises:
            PolicyError: 208 naming parameter, value, limit and remedy.
        """
        kind = type(self.default)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise self._bad(value, f"write a {kind.__name__}")
        if self.choices and value not in self.choices:
            raise self._bad(value, did_you_mean(str(value), self.choices))
        checked: Any = value
        if self.low is not None and self.high is not None and not self.low <= checked <= self.high:
            raise self._bad(value, f"set {self.name} within the limits")
        return checked

    def _bad(self, value: Any, remedy: str) -> PolicyError:
        return PolicyError(
            ErrorCode.POLICY_BAD_PARAMETER,
            f"parameter {self.name} is unusable",
            value=value,
            limit=self.limit,
            remedy=remedy,
        )


def names_in(text: str) -> tuple[str, ...]:
    """The names in a parameter that holds several, with commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def declare(node: Node, parameters: Iterable[Parameter]) -> None:
    """Declare all; a value out of range is kept until configure, which says what is wrong with it."""
    for parameter in parameters:
        loose = ParameterDescriptor(description=parameter.description, dynamic_typing=True)
        value: Any = node.declare_parameter(parameter.name, parameter.default, loose).value
        try:
            parameter.check(value)
            node.set_descriptor(parameter.name, parameter.descriptor())
        except (PolicyError, ParameterException) as error:
            node.get_logger().warning(f"{error} (refused when the node is configured)")


def read(node: Node, parameters: Iterable[Parameter]) -> Mapping[str, Any]:
    """Checked values by name. Raises :class:`PolicyError` 208 for the first unusable one."""
    return {p.name: p.check(node.get_parameter(p.name).value) for p in parameters}
