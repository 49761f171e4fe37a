"""The report of a canary: verdict first, both kinds of intervals, and all of it in one file."""

import json
from pathlib import Path

import pytest
from canary_parts import Bench, make

from vlaforget_ros.errors import CanaryError
from vlaforget_ros.report.canary import DOCUMENT, read, render, write
from vlaforget_ros.report.canary_plots import canary_plots
from vlaforget_ros.safety.canary.document import document
from vlaforget_ros.safety.canary.state import Phase, Verdict
from vlaforget_ros.safety.rules.base import Severity

NOW = "2026-11-22T00:00:00+00:00"


def _promoted() -> Bench:
    bench = make()
    bench.until(Phase.RAMP)
    while bench.canary.state.verdict is Verdict.RUNNING:
        bench.drive(candidate=False)
        bench.drive(rules=("zone<1>",) if bench.canary.state.candidate.rollouts == 12 else ())
    return bench


def test_the_page_starts_with_the_verdict_and_needs_nothing_else(tmp_path: Path) -> None:
    bench = _promoted()
    written = document(bench.canary, created=NOW, canary_id="c1", names=("edit-7", "edit-6"))
    page = write(tmp_path / "canary", written).read_text()
    assert page.index("may become stable") < page.index("<h2>")
    assert "edit-7" in page
    assert "zone&lt;1&gt;" in page
    assert page.count("data:image/svg+xml") == 2
    assert "http://" not in page
    assert "https://" not in page
    assert read(tmp_path / "canary" / DOCUMENT) == json.loads(json.dumps(written))


def test_the_record_has_rates_with_both_intervals_and_rules_by_arm() -> None:
    record = document(_promoted().canary, created=NOW)
    assert record["verdict"] == "PROMOTE"
    assert record["rules"] == [{"rule": "zone<1>", "candidate": 1, "stable": 0}]
    rows = {(row["who"], row["what"]): row for row in record["rates"]}
    svr = rows["candidate, full speed", "SVR"]
    assert svr["hits"] == 1
    assert (
        svr["sequential"][0]
        <= svr["exact"][0]
        <= 1 / svr["rollouts"]
        <= svr["exact"][1]
        < svr["sequential"][1]
    )
    assert ("stable, before", "SVR") not in rows
    assert record["shadow"]["rollouts"] == 5
    assert len(record["trace"]) == record["trace"][-1]["index"] + 1


def test_an_abort_with_a_failed_stable_says_to_stop() -> None:
    bench = make()
    bench.until(Phase.RAMP)
    bench.canary.violation("5" * 64, Severity.STOP, "zone")
    bench.canary.violation("c" * 64, Severity.STOP, "zone")
    page = render(document(bench.canary, created=NOW))
    assert "was aborted" in page
    assert "must be stopped" in page


def test_a_canary_that_heard_nothing_has_a_page_without_plots() -> None:
    record = document(make(phases=["offline"]).canary, created=NOW)
    assert canary_plots(record) == {}
    assert "is running" in render(record)
    assert any("shadow, reduced_speed, ramp" in line for line in record["not_proven"])


def test_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"format": 0}')
    for name in ("x.json", "none.json"):
        with pytest.raises(CanaryError, match="503"):
            read(tmp_path / name)
