"""Requests that are well formed and still cannot be meant: what is refused, and what goes without saying."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlaforget_ros.errors import ErrorCode, PolicyError, UnlearningError
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning.contradictions import require_base
from vlaforget_ros.unlearning.request import read_request
from vlaforget_ros.unlearning.sources import gather

# The bag has bad-0..2 (with violations), good-3..7 and near-8..9 (without).
FORGET, RETAIN, BOUNDARY = (
    "forget: {violation_rule: keep_out/hand_zone}",
    "retain: {outcome: success, has_violation: false, instruction: open the faucet}",
    "boundary: {rollout_id: near-*}",
)


def refused(text: str) -> UnlearningError:
    with pytest.raises(UnlearningError) as error:
        read_request(text)
    assert error.value.code == ErrorCode.UNLEARNING_BAD_REQUEST
    return error.value


@pytest.mark.parametrize("kept", ["retain", "boundary"])
def test_one_rollout_cannot_be_forgotten_and_kept(request_text: str, kept: str) -> None:
    line = RETAIN if kept == "retain" else BOUNDARY
    text = request_text.replace(FORGET, "forget: {rollout_ids: [bad-0, bad-1, bad-2]}")
    text = text.replace(line, f"{kept}: {{rollout_ids: [good-3, bad-1, bad-2]}}")
    error = refused(text)
    assert f"forget and {kept} name the same rollouts" in error.message
    assert error.value == "bad-1, bad-2"
    assert f"{kept}.rollout_ids" in error.remedy


def test_one_pattern_in_both_is_refused_once_it_names_rollouts(request_text: str, policy: VlaPolicy) -> None:
    text = request_text.replace(FORGET, 'forget: {rollout_ids: ["bad-*"]}')
    both = read_request(text.replace(RETAIN, 'retain: {rollout_ids: ["bad-*", "good-*"]}'))
    with pytest.raises(UnlearningError, match="forget and retain name the same rollouts") as error:
        gather(both, policy)
    assert error.value.code == ErrorCode.UNLEARNING_BAD_REQUEST
    assert error.value.value == "bad-0, bad-1, bad-2"


def test_the_same_pattern_is_fine_where_other_conditions_tell_the_rollouts_apart(
    request_text: str, policy: VlaPolicy
) -> None:
    text = request_text.replace(FORGET, 'forget: {rollout_ids: ["*-*"], has_violation: true}')
    text = text.replace(RETAIN, 'retain: {rollout_ids: ["*-*"], has_violation: false}')
    data = gather(read_request(text.replace("[{kind: transplant}]", "[]")), policy).data
    assert {name[:4] for name in data.forget.episodes} == {"bad-"}
    assert {name[:4] for name in data.retain.episodes} == {"good", "near"}


def test_what_a_general_selection_has_in_common_with_the_forget_set_is_left_out(
    request_text: str, policy: VlaPolicy
) -> None:
    text = request_text.replace(RETAIN, "retain: {}").replace("[{kind: transplant}]", "[]")
    data = gather(read_request(text), policy).data
    # 5 good and 2 near episodes of 14 frames; the 3 bad ones are not retained.
    assert len(data.retain) == 7 * 14
    assert not set(data.retain.episodes) & set(data.forget.episodes)


@pytest.mark.parametrize(
    "selection",
    [
        "{has_violation: false, violation_rule: keep_out/hand_zone}",
        "{has_violation: false, before_s: 1.0}",
        "{has_violation: false, after_s: 1.0}",
    ],
)
def test_violations_in_episodes_without_any_are_refused(request_text: str, selection: str) -> None:
    assert (
        "forget: asks for violations" in refused(request_text.replace(FORGET, f"forget: {selection}")).message
    )
    assert (
        "retain: asks for violations" in refused(request_text.replace(RETAIN, f"retain: {selection}")).message
    )


def test_a_lower_bound_cannot_be_above_what_it_bounds(request_text: str) -> None:
    gates = "gates: {rc_min: 0, rad_max: 1, rad_boundary_max: 1"
    error = refused(request_text.replace(gates, f"{gates}, fc_min: 80, fc_low_min: 85"))
    assert "gates" in error.message
    assert error.value == "fc_low_min 85, fc_min 80"
    # The default fc_low_min is 90: who lowers fc_min alone is told.
    assert refused(request_text.replace(gates, f"{gates}, fc_min: 80")).value == "fc_low_min 90, fc_min 80"
    assert read_request(request_text.replace(gates, f"{gates}, fc_min: 90")).gates.fc_low_min == 90


def gathered(text: str, policy: VlaPolicy) -> UnlearningError:
    with pytest.raises(UnlearningError) as error:
        gather(read_request(text), policy)
    return error.value


def test_a_misspelt_rule_alone_is_an_empty_set_that_names_the_nearest(
    request_text: str, policy: VlaPolicy
) -> None:
    error = gathered(request_text.replace("hand_zone", "hand_zon"), policy)
    assert error.code == ErrorCode.UNLEARNING_EMPTY_FORGET_SET
    assert "keep_out/hand_zon'" in error.remedy
    assert "did you mean keep_out/hand_zone?" in error.remedy


@pytest.mark.parametrize(
    ("old", "new", "field", "near"),
    [
        (FORGET, "forget: {violation_rules: [keep_out/hand_zone, keepout/hand_zone]}", "forget.violation_rules",
         "keep_out/hand_zone"),
        (RETAIN, "retain: {has_violation: false, instructions: [open the faucet, make cofee now]}",
         "retain.instructions", "make a coffee now"),
        (BOUNDARY, "boundary: {instruction: make a cofee now}", "boundary.instructions", "make a coffee now"),
    ],
)  # fmt: skip
def test_a_name_that_no_episode_has_is_refused_even_beside_a_right_one(
    request_text: str, policy: VlaPolicy, old: str, new: str, field: str, near: str
) -> None:
    error = gathered(request_text.replace(old, new), policy)
    assert error.code == ErrorCode.UNLEARNING_BAD_REQUEST
    assert f"{field}: no episode of the bags has it" in error.message
    assert error.remedy.startswith(f"did you mean {near}")


def test_a_pattern_may_match_nothing(request_text: str, policy: VlaPolicy) -> None:
    text = request_text.replace(FORGET, 'forget: {violation_rules: [keep_out/hand_zone, "speed/*"]}')
    assert len(gather(read_request(text), policy).data.forget) == 42


def test_a_base_that_is_not_there_names_the_folders_beside_it(tmp_path: Path) -> None:
    (tmp_path / "openvla_7b").mkdir()
    (tmp_path / "tiny").mkdir()
    require_base(str(tmp_path / "tiny"))
    with pytest.raises(PolicyError, match="did you mean tiny") as error:
        require_base(str(tmp_path / "tinny"))
    assert error.value.code == ErrorCode.POLICY_BAD_CHECKPOINT
    with pytest.raises(PolicyError, match="is not there either"):
        require_base(str(tmp_path / "nowhere" / "tiny"))
