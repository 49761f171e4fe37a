"""Which adapters stay in memory, and where a rollback goes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlaforget_ros.errors import AdapterError, ErrorCode, PolicyError
from vlaforget_ros.policy.residents import Residents
from vlaforget_ros.policy.slots import AdapterSlots, StagedAdapter

SLOTS = AdapterSlots(torch.nn.Linear(1, 1))


def staged(digest: str) -> StagedAdapter:
    return StagedAdapter(digest, (None,), 0, SLOTS)


def swap(residents: Residents, *digests: str) -> None:
    for digest in digests:
        residents.swapped(digest, staged(digest) if digest else None)


def test_the_least_recently_used_adapter_goes_first() -> None:
    residents = Residents(3)

    swap(residents, "a", "b", "c", "a", "d")

    assert residents.digests == ("c", "a", "d")
    assert residents.get("b") is None
    assert residents.active == "d"
    assert residents.previous == "a"


def test_rollbacks_walk_back_through_what_is_still_resident() -> None:
    residents = Residents(2)
    swap(residents, "a", "b", "c")
    walked = []

    while residents.previous is not None:
        digest, adapter = residents.before()
        assert (adapter is None) == (digest == "")
        residents.rolled_back()
        walked.append(digest)

    assert walked == ["b", ""]
    with pytest.raises(AdapterError) as caught:
        residents.before()
    assert caught.value.code == ErrorCode.ADAPTER_NO_PREVIOUS


def test_swapping_to_what_is_active_is_nothing_to_roll_back() -> None:
    residents = Residents(2)

    swap(residents, "a", "a")

    assert residents.previous == ""


def test_dropping_idle_adapters_keeps_active_and_previous() -> None:
    residents = Residents(5)
    swap(residents, "a", "b", "c", "d")

    assert residents.drop_idle() == 2
    assert residents.digests == ("c", "d")
    assert residents.previous == "c"


def test_a_limit_below_two_is_refused() -> None:
    with pytest.raises(PolicyError) as caught:
        Residents(1)

    assert caught.value.code == ErrorCode.POLICY_BAD_PARAMETER


ACTIONS = st.sampled_from(["", "a", "b", "c", "d", "e", "back", "drop"])


@given(st.integers(2, 4), st.lists(ACTIONS, max_size=60))
def test_active_and_previous_are_always_resident_within_the_limit(limit: int, actions: list[str]) -> None:
    residents = Residents(limit)
    for action in actions:
        if action == "drop":
            residents.drop_idle()
        elif action != "back":
            swap(residents, action)
        elif residents.previous is not None:
            residents.rolled_back()
        pinned = {residents.active, residents.previous or ""} - {""}
        assert pinned <= set(residents.digests)
        assert len(residents.digests) <= limit
        if residents.previous is not None:
            digest, adapter = residents.before()
            assert (adapter.digest if adapter else "") == digest


def test_idle_adapters_go_when_they_take_too_much_memory() -> None:
    residents = Residents(10, limit_bytes=100)
    for digest in "abcd":
        residents.swapped(digest, StagedAdapter(digest, (None,), 40, SLOTS))
    # c serves before d; with a and b it would be 160.
    assert residents.digests == ("c", "d")
    residents.swapped("e", StagedAdapter("e", (None,), 200, SLOTS))
    assert residents.digests == ("d", "e"), "the active one and the one to go back to stay"


def test_pinned_adapters_stay_until_memory_is_out() -> None:
    residents = Residents(2)
    residents.pin(["a"])
    swap(residents, "a", "b", "c", "d")
    assert residents.digests == ("a", "c", "d")
    assert residents.drop_idle() == 1
    assert residents.digests == ("c", "d")


def test_the_base_can_be_taken_off_the_way_back() -> None:
    residents = Residents(3)
    swap(residents, "a", "b")
    residents.forget_base()
    residents.rolled_back()
    assert residents.active == "a"
    assert residents.previous is None
