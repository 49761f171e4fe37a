"""Rates by rule, severity and window, their exact intervals, and counts that survive a restart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from typer.testing import CliRunner

from vlaforget_ros.cli.app import app
from vlaforget_ros.errors import SafetyError
from vlaforget_ros.safety import kept_file
from vlaforget_ros.safety.exact import exact_interval
from vlaforget_ros.safety.ratebook import RateBook
from vlaforget_ros.safety.rules.base import Severity

rollouts = st.lists(
    st.tuples(
        st.sampled_from(["", "d"]),
        st.sampled_from([True, False, None]),
        st.lists(st.tuples(st.sampled_from(["zone", "speed"]), st.sampled_from(list(Severity))), max_size=3),
    ),
    max_size=40,
)
Told = list[tuple[str, bool | None, list[tuple[str, Severity]]]]


def told(book: RateBook, runs: Told, first: int = 0) -> RateBook:
    for number, (digest, success, violations) in enumerate(runs, first):
        book.start(f"r{number}", digest)
        for rule, severity in violations:
            book.violation(f"r{number}", digest, rule, severity)
        book.end(f"r{number}", digest, success)
    return book


@given(
    st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    st.sampled_from([0.8, 0.95]),
)
def test_the_exact_interval_is_that_of_scipy(counts: tuple[int, int], level: float) -> None:
    hits, trials = counts
    expected = binomtest(hits, trials).proportion_ci(level, "exact")
    interval = exact_interval(hits, trials, level)
    assert interval.low == pytest.approx(expected.low, abs=1e-9)
    assert interval.high == pytest.approx(expected.high, abs=1e-9)
    assert interval.low <= interval.estimate <= interval.high


def test_exact_intervals_from_the_tables() -> None:
    # 0 of 10: high = 1 - 0.025^(1/10).
    assert exact_interval(0, 10).high == pytest.approx(1 - 0.025**0.1)
    assert exact_interval(10, 10).low == pytest.approx(0.025**0.1)
    assert (exact_interval(0, 0).low, exact_interval(0, 0).high) == (0.0, 1.0)
    with pytest.raises(ValueError, match="within 0"):
        exact_interval(2, 1)
    with pytest.raises(ValueError, match="level"):
        exact_interval(1, 1, 1.0)


def test_parts_by_hand() -> None:
    runs: Told = [
        ("d", True, [("zone", Severity.WARN), ("speed", Severity.SLOW)]),
        ("d", False, [("zone", Severity.STOP), ("zone", Severity.WARN)]),
        ("d", True, []),
        ("d", None, []),
        ("d", True, [("speed", Severity.WARN)]),
    ]
    (found,) = told(RateBook(), runs).breakdown()
    assert (found.adapter_digest, found.rollouts) == ("d", 4)
    assert {rule: rate.estimate for rule, rate in found.by_rule.items()} == {"zone": 0.5, "speed": 0.5}
    assert {name: rate.estimate for name, rate in found.by_severity.items()} == {
        "WARN": 0.25,
        "SLOW": 0.25,
        "STOP": 0.25,
    }
    (last,) = told(RateBook(), runs).breakdown(last=2)
    # The aborted one without a violation counts for nothing, so the window reaches back over it.
    assert (last.rollouts, last.svr.estimate, last.by_rule.keys()) == (2, 0.5, {"speed"})


@given(rollouts, st.integers(1, 10))
def test_a_window_is_a_plain_count_of_the_last(runs: Told, last: int) -> None:
    book = told(RateBook(), runs)
    for found in book.breakdown(last):
        mine = [(s, v) for digest, s, v in runs if digest == found.adapter_digest and (s is not None or v)][
            -last:
        ]
        assert found.rollouts == len(mine)
        if mine:
            assert found.svr.estimate == sum(bool(v) for _, v in mine) / len(mine)
            assert found.tsr.estimate == sum(bool(s) for s, _ in mine) / len(mine)
            zone = found.by_rule.get("zone")
            assert (zone.estimate if zone else 0.0) == sum("zone" in dict(v) for _, v in mine) / len(mine)


@given(rollouts, rollouts)
def test_a_restart_changes_no_count(before: Told, after: Told) -> None:
    plain = told(RateBook(), [*before, *after])
    book = RateBook()
    book.restore(json.loads(json.dumps(told(RateBook(), before).state())))
    told(book, after, len(before))
    # Compared as text: rates without rollouts are NaN.
    assert repr(book.estimates()) == repr(plain.estimates())
    assert repr(book.breakdown(3)) == repr(plain.breakdown(3))
    assert book.state() == plain.state()


def test_counts_of_many_rollouts_come_back_too() -> None:
    book = told(RateBook(), [("", k % 2 == 0, [("zone", Severity.SLOW)] * (k % 3 == 0)) for k in range(4200)])
    again = RateBook()
    again.restore(json.loads(json.dumps(book.state())))
    assert again.breakdown() == book.breakdown()
    assert again.breakdown()[0].rollouts == 4200
    assert again.breakdown()[0].by_severity["SLOW"].estimate == pytest.approx(1400 / 4200)


def test_a_late_violation_reaches_a_rollout_of_before_the_restart(tmp_path: Path) -> None:
    file = tmp_path / "state" / "rates.json"
    assert kept_file.load(file, RateBook().restore, "the counts") == ""
    assert kept_file.save(file, told(RateBook(), [("d", True, [])]).state(), "the counts") == ""
    book = RateBook()
    assert kept_file.load(file, book.restore, "the counts") == ""
    assert book.violation("r0", "d", "zone")
    assert not book.violation("r0", "d", "zone")
    assert book.estimates()[0].unsafe_successes == 1
    assert [p.name for p in file.parent.iterdir()] == ["rates.json"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1]", '{"form": 2}', '{"form": 1, "ends": -1, "settled": {}, "rollouts": []}', "[" * 100_000],
)
def test_a_damaged_file_is_put_aside_and_never_lost(tmp_path: Path, text: str) -> None:
    file = tmp_path / "rates.json"
    for number in (1, 2):
        file.write_text(text)
        book = told(RateBook(), [("d", True, [])])
        warning = kept_file.load(file, book.restore, "the counts")
        assert f"rates.json.damaged-{number}" in warning
        assert (tmp_path / f"rates.json.damaged-{number}").read_text() == text
        assert not file.exists()
        assert book.estimates()[0].rollouts == 1


def test_a_disk_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rates.json"
    kept_file.save(file, told(RateBook(), [("d", True, [])]).state(), "the counts")
    before = file.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept_file.os, "fsync", full)
    assert "No space left on device" in kept_file.save(file, RateBook().state(), "the counts")
    assert file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["rates.json"]


def test_a_bad_state_changes_nothing() -> None:
    book = told(RateBook(), [("d", True, [])])
    with pytest.raises(SafetyError, match="rollouts") as caught:
        book.restore({"form": 1, "ends": 0, "settled": {}})
    assert caught.value.code == 404
    assert book.estimates()[0].rollouts == 1


def test_the_rates_of_a_state_file_are_shown_whole_and_in_a_window(tmp_path: Path) -> None:
    file, out = tmp_path / "rates.json", tmp_path / "out.json"
    book = told(RateBook(), [("d" * 64, k < 8, [("zone", Severity.SLOW)] * (k < 4)) for k in range(20)])
    kept_file.save(file, book.state(), "the counts")
    for last, svr in ((0, 0.2), (10, 0.0)):
        done = CliRunner().invoke(
            app, ["monitor", "rates", str(file), "--last", str(last), "--json", str(out)]
        )
        assert done.exit_code == 0, done.output
        (adapter,) = json.loads(out.read_text())["adapters"]
        assert adapter["svr"]["estimate"] == pytest.approx(svr)
        assert ("zone" in done.output) == (last == 0)
    file.write_text("no json")
    failed = CliRunner().invoke(app, ["monitor", "rates", str(file)])
    assert isinstance(failed.exception, SafetyError)
    assert failed.exception.code == 404
