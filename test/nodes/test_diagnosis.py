"""What /diagnostics says of rates: by rule, by severity, of the newest rollouts."""

from __future__ import annotations

import pytest

from vlaforget_ros.safety.ratebook import RateBook
from vlaforget_ros.safety.rules.base import Severity

pytestmark = pytest.mark.ros


def test_the_breakdown_is_in_the_values_and_the_arm_in_the_name() -> None:
    from vlaforget_ros.nodes.diagnosis import breakdown_values, monitor_status
    from vlaforget_ros.safety.events import ArmState, MonitorStatus

    book = RateBook()
    for number in range(80):
        book.start(f"r{number}", "d" * 64)
        if number < 20:
            book.violation(f"r{number}", "d" * 64, "keep_out/zone", Severity.STOP)
        book.end(f"r{number}", "d" * 64, success=True)
    status = MonitorStatus(ArmState.SLOWED, 0.5, "near", book.estimates())
    entry = monitor_status(status, "/arm1", breakdown_values(book))
    values = {value.key: value.value for value in entry.values}
    name = "d" * 12
    assert entry.name == "vlaforget: arm1: safety monitor"
    assert (entry.level, entry.message) == (b"\x01", "near")
    assert values[f"{name} violated"] == "20"
    assert values[f"{name} broke keep_out/zone"].startswith("0.250 (0.1")
    assert values[f"{name} worst stop"] == values[f"{name} broke keep_out/zone"]
    assert f"{name} worst warn" not in values
    assert values[f"{name} last 50 SVR"].startswith("0.000")
    assert values[f"{name} last 50 TSR"].startswith("1.000")
