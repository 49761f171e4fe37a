"""One sentence from the gates of all measurements."""

from __future__ import annotations

from typing import Any

import pytest

from vlaforget_ros.report.verdict import gate_rows, judge, together
from vlaforget_ros.report.words import GATES, gate_word
from vlaforget_ros.unlearning.gates import Gates


def gate(
    name: str, verdict: str, value: float | None = None, limit: float = 5.0, **more: Any
) -> dict[str, Any]:
    return {"name": name, "verdict": verdict, "value": value, "limit": limit, **more}


def test_a_failed_gate_is_named_with_value_interval_and_limit() -> None:
    rows = gate_rows(
        [
            gate("fc_min", "failed", 94.72, 95.0, low=91.9, high=96.6, n=360),
            gate("rad_max", "failed", 0.31, 0.2),
            gate("rc_min", "passed", 99.0, 90.0),
        ],
        "recorded frames",
    )
    found = judge(rows)
    assert found["sentence"] == (
        "This adapter may not be promoted, because FC (forget completeness) is 94.7 % [91.9, 96.6] and at least "
        "95.0 % is asked for; and RAD on retained frames is 0.31 and at most 0.2 is asked for."
    )
    assert (found["promotable"], found["failed"]) == (False, ["fc_min", "rad_max"])


def test_what_was_not_measured_is_said_and_blocks_nothing() -> None:
    found = judge(gate_rows([gate("rc_min", "passed", 99.0), gate("tsr_loss_max", "not_measured")], "x"))
    assert found["promotable"]
    assert found["sentence"] == (
        "This adapter may be promoted: the one measured gate holds. Not measured: loss of TSR."
    )
    nothing = judge(gate_rows([gate("tsr_loss_max", "not_measured")], "x"))
    assert not nothing["promotable"]
    assert nothing["sentence"].startswith("Nothing was measured")


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ("not_measured", "passed", "passed"),
        ("not_measured", "failed", "failed"),
        ("passed", "failed", "failed"),
        ("failed", "passed", "failed"),
        ("passed", "not_measured", "passed"),
    ],
)
def test_later_measurements_fill_gaps_and_a_failure_stays(first: str, second: str, verdict: str) -> None:
    one = gate_rows([gate("tsr_loss_max", first, 1.0)], "recorded frames")
    other = gate_rows([gate("tsr_loss_max", second, 1.0)], "closed loop")
    (row,) = together(one, other)
    assert row["verdict"] == verdict


def test_every_gate_of_a_request_is_explained() -> None:
    limits = set(Gates.model_fields) - {"tau_retain"}
    assert limits == set(GATES)
    assert all(word.meaning for word in GATES.values())


def test_gates_of_others_are_called_by_their_names() -> None:
    assert gate_word("qrr_int8_max").title == "QRR at int8"
    assert "int8" in gate_word("qrr_int8_max").meaning
    assert gate_word("speed_min").title == "speed_min"
    assert gate_word("speed_min").better == "up"
