"""Routing of rollouts in a canary and the watch over the monitor, with a clock that does not run by itself."""

from __future__ import annotations

import pytest
from manual_clock import ManualClock

from vlaforget_ros.nodes.control import SafetyView, SafetyWatch, gate
from vlaforget_ros.nodes.routing import CanaryView, Route, Router

DIGEST = "c" * 64


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def router(clock: ManualClock) -> Router:
    return Router(5.0, clock)


def view(weight: float = 0.0, shadow: bool = False, name: str = "one", running: bool = True) -> CanaryView:
    return CanaryView(name, DIGEST, 7, weight, shadow, running)


def test_without_a_canary_everything_is_stables(router: Router) -> None:
    assert router.next() == Route()


def test_the_candidate_gets_its_share(router: Router) -> None:
    router.heard(view(0.5))
    routes = [router.next().candidate for _ in range(40)]
    assert routes.count(DIGEST) == 20
    router.heard(view(1.0))
    assert [router.next().candidate for _ in range(10)] == [DIGEST] * 10


def test_the_same_canary_is_routed_the_same_way_again(clock: ManualClock) -> None:
    runs = []
    for _ in range(2):
        router = Router(5.0, clock)
        router.heard(view(0.3))
        runs.append([router.next().candidate for _ in range(30)])
    assert runs[0] == runs[1]


def test_another_canary_begins_anew(router: Router) -> None:
    router.heard(view(0.5))
    first = [router.next() for _ in range(7)]
    router.heard(view(0.5, name="two"))
    assert [router.next() for _ in range(7)] == first


def test_in_shadow_the_candidate_computes_beside(router: Router) -> None:
    router.heard(view(shadow=True))
    assert router.next() == Route(shadow=DIGEST)
    assert router.shadowing()
    router.heard(view(shadow=True, running=False))
    assert not router.shadowing()
    assert router.next() == Route()


def test_a_monitor_that_fell_silent_gives_the_candidate_nothing(router: Router, clock: ManualClock) -> None:
    router.heard(view(1.0))
    clock.now += 5.1
    assert router.next() == Route()
    router.heard(view(1.0))
    assert router.next().candidate == DIGEST


def test_a_verdict_ends_the_candidates_share(router: Router) -> None:
    router.heard(view(1.0))
    router.heard(view(1.0, running=False))
    assert router.next() == Route()


def test_a_silent_monitor_holds_the_arm_until_it_speaks_again(clock: ManualClock) -> None:
    watch = SafetyWatch(2.0, clock)
    watch.heard(SafetyView())
    clock.now += 1.9
    assert gate(0.0, 0.5, watch.view()) == 0
    clock.now += 0.2
    assert gate(0.0, 0.5, watch.view()) == 401
    assert "nothing for 2.1 s (limit 2 s)" in watch.view().reason
    watch.heard(SafetyView())
    assert gate(0.0, 0.5, watch.view()) == 0


def test_a_stop_stays_a_stop_when_the_monitor_falls_silent(clock: ManualClock) -> None:
    watch = SafetyWatch(2.0, clock)
    assert watch.heard(SafetyView(stopped=True, reason="keep_out/shelf"))
    clock.now += 60.0
    assert gate(0.0, 0.5, watch.view()) == 400
    assert watch.heard(SafetyView())


def test_no_monitor_is_no_reason_to_hold(clock: ManualClock) -> None:
    watch = SafetyWatch(2.0, clock)
    clock.now += 60.0
    assert gate(0.0, 0.5, watch.view()) == 0
    never = SafetyWatch(0.0, clock)
    never.heard(SafetyView(speed_scale=0.5))
    clock.now += 60.0
    assert never.view().speed_scale == 0.5
