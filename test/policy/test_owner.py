"""The owner thread: order, exceptions, end."""

from __future__ import annotations

import threading

import pytest

from vlaforget_ros.errors import ErrorCode, PolicyError
from vlaforget_ros.policy.owner import OwnerThread


def test_calls_run_in_one_other_thread_in_order_and_urgent_ones_first() -> None:
    owner, gate, started = OwnerThread("test"), threading.Event(), threading.Event()
    ran: list[str] = []

    def note(name: str) -> int:
        ran.append(name)
        return threading.get_ident()

    def hold() -> bool:
        started.set()
        return gate.wait(60)

    blocked = owner.submit(hold)
    assert started.wait(60)
    futures = [owner.submit(lambda n=name: note(n)) for name in ("a", "b")]
    futures.append(owner.submit(lambda: note("urgent"), first=True))
    gate.set()

    idents = {future.result(60) for future in futures}
    assert blocked.result(60)
    assert ran == ["urgent", "a", "b"]
    assert len(idents) == 1
    assert threading.get_ident() not in idents
    owner.close()


def test_an_exception_goes_to_its_caller_and_the_thread_lives_on() -> None:
    owner = OwnerThread("test")

    with pytest.raises(ZeroDivisionError):
        owner.submit(lambda: 1 // 0).result(60)

    assert owner.submit(lambda: 7).result(60) == 7
    owner.close()


def test_closing_finishes_what_runs_and_refuses_what_waits() -> None:
    owner, gate, started = OwnerThread("test"), threading.Event(), threading.Event()

    def hold() -> str:
        started.set()
        gate.wait(60)
        return "done"

    running = owner.submit(hold)
    waiting = owner.submit(lambda: None)
    assert started.wait(60)
    closing = threading.Thread(target=owner.close)
    closing.start()
    with pytest.raises(PolicyError) as caught:
        waiting.result(60)
    gate.set()
    closing.join(60)

    assert caught.value.code == ErrorCode.POLICY_NOT_ACTIVE
    assert running.result(60) == "done"
    with pytest.raises(PolicyError):
        owner.submit(lambda: None)
    owner.close()
