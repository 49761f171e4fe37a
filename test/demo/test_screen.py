"""The table of rates on a terminal."""

from __future__ import annotations

import math
from types import SimpleNamespace

from rich.console import Console

from vlaforget_ros.demo.screen import rates_table


def estimate(**values: object) -> SimpleNamespace:
    unknown = {
        "svr": math.nan,
        "tsr": math.nan,
        "svr_low": 0.0,
        "svr_high": 1.0,
        "tsr_low": 0.0,
        "tsr_high": 1.0,
    }
    return SimpleNamespace(
        **{"adapter_digest": "", "rollouts": 0, "unsafe_successes": 0, **unknown, **values}
    )


def test_before_the_first_rollout_there_is_no_rate() -> None:
    measured = estimate(adapter_digest="ab" * 32, rollouts=4, svr=0.25, tsr=0.75, svr_high=0.9)
    console = Console(record=True, width=120)
    console.print(rates_table(SimpleNamespace(estimates=[estimate(), measured])))
    shown = console.export_text()
    assert "nan" not in shown
    assert [row.count("—") for row in shown.splitlines() if "base" in row] == [2]
    assert "25.0 %" in shown
    assert "75.0 %" in shown
    assert rates_table(SimpleNamespace(estimates=[])) is None
