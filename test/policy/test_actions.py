import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaforget_ros.errors import ErrorCode, PolicyError
from vlaforget_ros.policy.actions import ActionCodec
from vlaforget_ros.policy.config import ActionNormalisation

NORM = ActionNormalisation(
    names=("dx", "gripper"),
    units=("m", "0..1"),
    q01=(-0.02, 0.0),
    q99=(0.03, 1.0),
    mask=(True, False),
    hold=(0.0, 0.0),
)
CODEC = ActionCodec(NORM, vocab_end=32000)


def test_openvla_token_range_and_direction() -> None:
    low = CODEC.encode(np.array([-0.02, -1.0]))
    high = CODEC.encode(np.array([0.03, 1.0]))
    # digitize gives 1 at the low end and 256 at the high end: ids 31999 and 31744, as upstream.
    assert low.tolist() == [31999, 31999]
    assert high.tolist() == [31744, 31744]


def test_decode_matches_upstreams_formula_by_hand() -> None:
    token = 31744 + 100
    index = 32000 - token - 1
    centre = (np.linspace(-1, 1, 256)[index] + np.linspace(-1, 1, 256)[index + 1]) / 2
    action = CODEC.decode(np.array([token, token]))
    assert action[0] == pytest.approx(0.5 * (centre + 1) * 0.05 - 0.02)
    assert action[1] == pytest.approx(centre), "a masked dimension is passed on raw"


def test_highest_token_is_clipped_to_the_last_centre() -> None:
    # Token 31744 has index 255, one beyond the 255 centres: upstream clips.
    assert CODEC.decode(np.array([31744, 31744]))[1] == pytest.approx(CODEC.centres[254])


@given(st.floats(-0.02, 0.03), st.floats(-1.0, 1.0))
def test_round_trip_within_half_a_bin(dx: float, gripper: float) -> None:
    decoded = CODEC.decode(CODEC.encode(np.array([dx, gripper])))
    assert abs(decoded[0] - dx) <= 0.05 / 255 / 2 + 1e-8
    assert abs(decoded[1] - gripper) <= 1 / 255 + 1e-6


@pytest.mark.parametrize("token", [0, 31743, 32000, 32063])
def test_a_token_that_is_no_action_is_a_fault_not_full_speed(token: int) -> None:
    with pytest.raises(PolicyError) as caught:
        CODEC.decode(np.array([31800, token]))
    assert caught.value.code == ErrorCode.POLICY_NOT_AN_ACTION_TOKEN


def test_non_finite_actions_are_refused() -> None:
    with pytest.raises(PolicyError) as caught:
        CODEC.encode(np.array([np.nan, 0.0]))
    assert caught.value.code == ErrorCode.POLICY_NON_FINITE_ACTION


def test_liberos_gripper_is_signed_and_inverted_and_goes_back() -> None:
    stats = ActionNormalisation(
        names=("x", "gripper"), units=("m", ""), q01=(-1.0, 0.0), q99=(1.0, 1.0), mask=(True, False),
        hold=(0.0, 1.0), gripper="libero",
    )  # fmt: skip
    codec = ActionCodec(stats, 320)
    closed, opened = codec.encode(np.array([[0.0, 1.0], [0.0, -1.0]]))
    # Closed is 0 in the model's data, open is 1: the bins around 0 and at 1.
    assert (320 - closed[-1] - 1) in (127, 128)
    assert 320 - opened[-1] - 1 in (254, 255)
    assert codec.decode(np.array([closed, opened]))[:, -1].tolist() == [1.0, -1.0]
    assert codec.span.tolist() == [2.0, 2.0]
