"""The assignment: exact shares in each block, the same everywhere, not the same for each seed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaforget_ros.safety.canary.assignment import arm_of, block_of

FIRST = [7, 12, 28, 37]
WEIGHTS = st.sampled_from([0.1, 0.2, 0.25, 0.3, 0.5, 0.99, 1.0, 0.0])


@given(st.integers(0, 2**64 - 1), st.integers(0, 10**6), WEIGHTS)
def test_every_block_has_exactly_its_share(seed: int, block: int, weight: float) -> None:
    length, ours = block_of(weight)
    arms = [arm_of(seed, block * length + place, weight) for place in range(length)]
    assert sum(arms) == ours == pytest.approx(weight * length)


def test_a_weight_that_went_through_a_message_is_the_same() -> None:
    assert block_of(0.10000000149011612) == block_of(0.1) == (10, 1)
    assert block_of(0.5) == (10, 5)


def test_the_first_rollouts_of_a_seed_never_change() -> None:
    assert [place for place in range(40) if arm_of(0, place, 0.1)] == FIRST
    assert [place for place in range(40) if arm_of(1, place, 0.1)] != FIRST


@pytest.mark.parametrize(("index", "weight"), [(-1, 0.5), (0, 1.1), (0, -0.1)])
def test_what_cannot_be_is_refused(index: int, weight: float) -> None:
    with pytest.raises(ValueError, match="must"):
        arm_of(0, index, weight)
