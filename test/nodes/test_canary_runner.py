"""A canary's consequences, with a robot of paper: who is asked what, and what happens when it cannot be done."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from vlaforget_ros.adapters import AdapterStore, LoraWeights
from vlaforget_ros.errors import AdapterError, CanaryError, ErrorCode, VlaForgetError
from vlaforget_ros.nodes.canary_runner import CanaryRunner, Finished
from vlaforget_ros.safety.canary.machine import Canary
from vlaforget_ros.safety.canary.state import Arm, ArmCounts, Verdict
from vlaforget_ros.safety.rules.base import Severity

PROTOCOL = {
    "phases": ["offline", "ramp"],
    "ramp": {"weights": [1.0], "rollouts": 2},
    "svr_bad": 0.6,
    "tsr_reference": 0.9,
    "tsr_loss_bad": 0.6,
    "min_rollouts": 4,
    "require_operator": False,
}


class Robot:
    """Notes what it is asked for, and answers as the test says."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.scales: list[float] = []
        self.log_lines: list[str] = []
        self.trouble = ""
        self.there = True

    def cap_speed(self, scale: float, reason: str) -> None:
        self.scales.append(scale)

    def stop(self, reason: str) -> None:
        self.asked.append(("stop",))

    def reachable(self) -> bool:
        return self.there

    def counts(self, digest: str) -> ArmCounts:
        return ArmCounts()

    def foresee(self, position: Any) -> tuple[str, ...]:
        return ()

    def roll_back(self, reason: str, only_from: str, then: Callable[[str], None]) -> None:
        self.asked.append(("roll_back", only_from))
        then(self.trouble)

    def swap(self, digest: str, then: Callable[[str], None]) -> None:
        self.asked.append(("swap", digest))
        then(self.trouble)

    def tell(self, canary_id: str, canary: Canary) -> None:
        self.log_lines.append(canary.state.verdict.name)

    def log(self, text: str) -> None:
        self.log_lines.append(text)


def add(store: AdapterStore, seed: int, gates_passed: bool = True) -> str:
    generator = torch.Generator().manual_seed(seed)
    tensors = {"layer": (torch.randn(2, 8, generator=generator), torch.randn(8, 2, generator=generator))}
    weights = LoraWeights.from_tensors(tensors, alpha=2.0, base_digest="b" * 64)
    provenance = {"name": f"edit-{seed}", "method": "test", "base_digest": "b" * 64}
    return store.add_weights(weights, {**provenance, "gates_passed": gates_passed}).digest


class Bench:
    """A runner with a store that holds a stable adapter and a candidate."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.store = AdapterStore(folder / "store")
        self.stable, self.candidate = add(self.store, 0), add(self.store, 1)
        self.robot, self.ended = Robot(), list[Finished]()
        self.runner = CanaryRunner(self.robot, self.store, folder / "canaries", displacement=True)
        self.protocol = folder / "protocol.yaml"
        self.protocol.write_text(yaml.safe_dump({**PROTOCOL, **changes}))

    def start(self, candidate: str = "") -> None:
        self.runner.start(candidate or self.candidate, str(self.protocol), self.stable, self.ended.append)

    def drive(self, count: int, success: bool = True) -> None:
        for number in range(count):
            if self.runner.session is None:
                return
            self.runner.session.began(f"r{number}", Arm.CANDIDATE, self.candidate)
            self.runner.session.ended(f"r{number}", self.candidate, success)
            self.runner.act()

    def break_rule(self) -> None:
        """The candidate drives, and breaks a rule that stops the arm."""
        session = self.runner.session
        assert session is not None
        session.began("r", Arm.CANDIDATE, self.candidate)
        session.violated("r", "keep_out/zone", Severity.STOP)
        self.runner.act()

    @property
    def end(self) -> Finished:
        (ended,) = self.ended
        return ended


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_promotion_moves_the_alias_and_swaps(bench: Bench) -> None:
    bench.start()
    bench.drive(20)
    assert bench.end.state.verdict is Verdict.PROMOTE
    assert bench.end.carried_out
    assert bench.store.aliases()["stable"] == bench.candidate
    assert bench.robot.asked == [("swap", bench.candidate)]
    assert bench.runner.session is None
    assert bench.end.document["candidate"] == {"name": "edit-1", "digest": bench.candidate}


def test_a_promotion_that_the_policy_refuses_is_told(bench: Bench) -> None:
    bench.robot.trouble = "[104] it does not fit"
    bench.start()
    bench.drive(20)
    assert not bench.end.carried_out
    assert "does not fit" in bench.end.reason


def test_a_promotion_that_the_store_refuses_swaps_nothing(bench: Bench) -> None:
    bench.start()
    bench.store.attach(bench.candidate, "attack", {"gates": [{"name": "qrr_int8_max", "verdict": "failed"}]})
    bench.drive(20)
    assert not bench.end.carried_out
    assert "could not become stable" in bench.end.reason
    assert bench.robot.asked == []
    assert "stable" not in bench.store.aliases()


def test_an_abort_between_rollouts_takes_nothing_back(bench: Bench) -> None:
    bench.start()
    bench.drive(20, success=False)
    assert bench.end.state.verdict is Verdict.ABORT
    assert bench.robot.asked == []
    with pytest.raises(AdapterError, match="canary"):
        bench.store.alias("stable", bench.candidate)


def test_a_later_canary_may_clear_the_mark_and_a_held_one_does_not(bench: Bench) -> None:
    bench.start()
    bench.drive(20, success=False)
    bench.start()
    bench.runner.cancel("lunch")
    with pytest.raises(AdapterError, match="canary"):
        bench.store.alias("stable", bench.candidate)
    bench.start()
    bench.drive(20)
    assert [ended.state.verdict.name for ended in bench.ended] == ["ABORT", "HOLD", "PROMOTE"]
    assert bench.store.aliases()["stable"] == bench.candidate


def test_a_gate_that_was_measured_later_counts(bench: Bench) -> None:
    bench.store.attach(bench.candidate, "attack", {"gates": [{"name": "qrr_int8_max", "verdict": "failed"}]})
    bench.start()
    assert bench.end.state.verdict is Verdict.ABORT
    assert "attack: qrr_int8_max" in bench.end.reason


def test_an_abort_in_a_rollout_takes_just_the_candidate_back(bench: Bench) -> None:
    bench.start()
    bench.break_rule()
    assert bench.robot.asked == [("roll_back", bench.candidate)]
    assert bench.end.state.verdict is Verdict.ABORT


def test_a_candidate_that_cannot_be_taken_back_stops_the_arm(bench: Bench) -> None:
    bench.robot.trouble = "[114] stable was revoked"
    bench.start()
    bench.break_rule()
    assert bench.robot.asked == [("roll_back", bench.candidate), ("stop",)]
    assert not bench.end.carried_out


def test_gates_that_failed_abort_before_anything_moves(bench: Bench) -> None:
    bench.start(add(bench.store, 2, gates_passed=False))
    assert bench.end.state.verdict is Verdict.ABORT
    assert "gates" in bench.end.reason
    assert bench.robot.asked == []


def test_stable_failing_too_stops_the_arm(tmp_path: Path) -> None:
    bench = Bench(tmp_path, abort_severity="stop")
    bench.start()
    session = bench.runner.session
    assert session is not None
    for name, arm, digest in (
        ("s", Arm.STABLE, bench.stable),
        ("c", Arm.CANDIDATE, bench.candidate),
    ):
        session.began(name, arm, digest)
        session.violated(name, "keep_out/zone", Severity.STOP)
        session.ended(name, digest, False)
        bench.runner.act()
    assert ("stop",) in bench.robot.asked
    assert bench.end.state.stop


def test_a_cancel_is_hold_and_leaves_the_candidate_unmarked(bench: Bench) -> None:
    bench.start()
    bench.runner.cancel("lunch")
    assert bench.end.state.verdict is Verdict.HOLD
    bench.store.alias("stable", bench.candidate)


def test_speed_is_capped_while_the_candidate_drives_slowly_and_free_again_after(tmp_path: Path) -> None:
    bench = Bench(tmp_path, phases=["reduced_speed", "ramp"], reduced_speed={"speed_scale": 0.25})
    bench.start()
    session = bench.runner.session
    assert session is not None
    session.began("r", Arm.CANDIDATE, bench.candidate)
    bench.runner.act()
    assert bench.robot.scales[-1] == 0.25
    bench.runner.cancel("enough")
    assert bench.robot.scales[-1] == 1.0


def test_a_full_disk_does_not_keep_a_verdict_from_being_carried_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise AdapterError(ErrorCode.ADAPTER_DISK, "the disk is full")

    bench.start()
    monkeypatch.setattr(bench.store, "record", full)
    bench.break_rule()
    assert bench.robot.asked == [("roll_back", bench.candidate)]
    assert bench.end.carried_out
    assert any("not in the history" in line for line in bench.robot.log_lines)


@pytest.mark.parametrize(
    ("changes", "value"),
    [
        ({"candidate": "base"}, "base"),
        ({"stable": None}, "policy/status"),
        ({"store": None}, "store"),
        ({"busy": True}, "another canary"),
    ],
)
def test_what_cannot_be_is_refused_with_500(bench: Bench, changes: dict[str, Any], value: str) -> None:
    if "store" in changes:
        bench.runner = CanaryRunner(bench.robot, None, Path("nowhere"), displacement=True)
    if "busy" in changes:
        bench.start()
    with pytest.raises(CanaryError, match=value) as refused:
        bench.runner.start(
            changes.get("candidate", bench.candidate),
            "",
            changes.get("stable", bench.stable),
            bench.ended.append,
        )
    assert refused.value.code == 500


def after_a_restart(bench: Bench) -> Bench:
    """The same robot and store in a new process."""
    value = json.loads(bench.runner.kept() or "")
    bench.runner.suspend()
    bench.runner = CanaryRunner(bench.robot, bench.store, Path("nowhere"), displacement=True)
    bench.runner.resume(value, bench.ended.append)
    return bench


def test_after_a_restart_it_goes_on_to_its_verdict(bench: Bench) -> None:
    bench.start()
    bench.drive(3)
    after_a_restart(bench)
    assert bench.ended == []
    session = bench.runner.session
    assert session is not None
    assert session.canary.state.candidate.rollouts == 3
    for number in range(20):
        if bench.runner.session is not None:
            session.began(f"later{number}", Arm.CANDIDATE, bench.candidate)
            session.ended(f"later{number}", bench.candidate, True)
            bench.runner.act()
    assert bench.end.state.verdict is Verdict.PROMOTE
    assert bench.robot.asked == [("swap", bench.candidate)]
    assert bench.runner.kept() is None
    events = [entry["event"] for entry in bench.store.history()]
    assert [e for e in events if e.startswith("canary")] == [
        "canary_started",
        "canary_resumed",
        "canary_ended",
    ]


def test_a_verdict_that_a_restart_interrupted_is_carried_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.robot, "roll_back", lambda *_: None)
    bench.start()
    bench.break_rule()
    monkeypatch.undo()
    bench.robot.there = False
    after_a_restart(bench)
    assert bench.robot.scales[-1] == 0.0
    assert bench.robot.asked == []
    bench.robot.there = True
    bench.runner.tick()
    assert bench.robot.asked == [("roll_back", bench.candidate)]
    assert bench.end.state.verdict is Verdict.ABORT


def test_only_the_same_canary_is_joined_and_only_by_one(bench: Bench, tmp_path: Path) -> None:
    bench.start()
    ask = bench.ended.append
    assert not bench.runner.join(bench.candidate, str(bench.protocol), ask)
    after_a_restart(bench)
    assert not bench.runner.join(bench.stable, str(bench.protocol), ask)
    assert not bench.runner.join(bench.candidate, "", ask)
    assert bench.runner.join(bench.candidate[:12], str(bench.protocol), ask)
    assert not bench.runner.join(bench.candidate, str(bench.protocol), ask)


def test_a_kept_canary_of_another_store_is_not_resumed(bench: Bench, tmp_path: Path) -> None:
    bench.start()
    value = json.loads(bench.runner.kept() or "")
    for store in (AdapterStore(tmp_path / "other"), None):
        runner = CanaryRunner(bench.robot, store, tmp_path, displacement=True)
        with pytest.raises(VlaForgetError):
            runner.resume(value, bench.ended.append)
        assert runner.session is None
