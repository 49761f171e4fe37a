"""From a recorded bag to the four sets, with every kind of counterfactual source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning.edit import EditSettings, prepare
from vlaforget_ros.unlearning.guard import Guard
from vlaforget_ros.unlearning.request import Request, read_request
from vlaforget_ros.unlearning.sources import balanced, gather


def with_sources(text: str, sources: str) -> Request:
    return read_request(text.replace("[{kind: transplant}]", sources))


def test_sets_come_from_the_selections(request_text: str, policy: VlaPolicy) -> None:
    found = gather(with_sources(request_text, "[]"), policy)
    sizes = {name: len(frames) for name, frames in found.data.sets().items()}
    assert sizes == {"forget": 42, "retain": 70, "boundary": 28}
    assert found.data.forget.desired is None
    assert len(np.unique(found.data.retain.episodes)) == 5
    assert set(found.data.boundary.instructions if found.data.boundary else ()) == {"make a coffee now"}
    assert any("forget: 3 episodes, 42 frames" in note for note in found.notes)


def test_transplant_pastes_the_trigger_and_asks_the_policy_without_it(
    request_text: str, policy: VlaPolicy
) -> None:
    found = gather(read_request(request_text), policy)
    made, forget = found.data.counterfactual, found.data.forget
    assert made is not None
    # The trigger on every clean frame of the same task, then (twice, to weigh as much) the forget frames.
    assert len(made) == 70 + 2 * 42
    assert np.all(made.images[:70, 44, 14] == (255, 0, 255))
    assert np.array_equal(made.actions[:70], found.data.retain.actions)
    asked = forget.images.copy()
    assert np.array_equal(made.images[70:112], asked)  # what is trained on shows the trigger
    assert forget.desired is not None
    assert np.array_equal(forget.desired, made.actions[70:112])
    clean = found.data.retain.images[:42]
    direct = np.stack([p.action for p in policy.act_batch(clean, forget.instructions)])
    assert forget.desired.shape == direct.shape
    assert set(made.episodes) == {*found.data.retain.episodes, *forget.episodes}


def test_a_neighbours_actions_and_what_the_policy_does_when_told_so(
    request_text: str, policy: VlaPolicy
) -> None:
    request = with_sources(request_text, "[{kind: neighbour, instruction: make a coffee now}]")
    found = gather(request, policy)
    made, forget = found.data.counterfactual, found.data.forget
    assert made is not None
    # Relabelled neighbours and the answers on their frames (both repeated, to weigh as much), then the forget frames.
    assert len(made) == 2 * 28 + 2 * 28 + 42
    assert set(made.instructions) == {"open the faucet"}
    told = [p.action for p in policy.act_batch(forget.images, ["make a coffee now"] * 42)]
    assert forget.desired is not None
    assert np.array_equal(forget.desired, np.stack(told))
    assert np.array_equal(made.images[-42:], forget.images)
    assert np.array_equal(made.actions[-42:], np.stack(told))


def test_forget_frames_under_a_boundary_instruction_must_stay_as_they_are(
    request_text: str, policy: VlaPolicy
) -> None:
    found = gather(with_sources(request_text, "[{kind: neighbour, instruction: make a coffee now}]"), policy)
    kept, forget = found.data.boundary, found.data.forget
    assert kept is not None
    assert len(kept) == 28 + 42
    assert np.array_equal(kept.images[28:], forget.images)
    assert set(kept.instructions) == {"make a coffee now"}
    told = [p.action for p in policy.act_batch(forget.images, ["make a coffee now"] * 42)]
    assert np.array_equal(kept.actions[28:], np.stack(told))
    assert any("boundary: forget frames told 'make a coffee now', 42 frames" in note for note in found.notes)


def test_a_small_source_weighs_as_much_as_a_large_one(request_text: str, policy: VlaPolicy) -> None:
    found = gather(read_request(request_text), policy)
    assert found.data.counterfactual is not None
    large = found.data.counterfactual
    sizes = [len(frames) for frames in balanced([large.take(np.arange(n)) for n in (100, 30, 7)])]
    assert sizes == [100, 90, 98]


def test_without_asking_the_policy_nothing_is_known_of_the_forget_frames(
    request_text: str, policy: VlaPolicy
) -> None:
    found = gather(with_sources(request_text, "[{kind: transplant, ask_policy: false}]"), policy)
    assert found.data.forget.desired is None
    assert found.data.counterfactual is not None
    assert len(found.data.counterfactual) == 70


def test_an_empty_source_is_reported_and_the_others_are_used(request_text: str, policy: VlaPolicy) -> None:
    sources = "[{kind: neighbour, instruction: close the drawer}, {kind: clean_successes}]"
    found = gather(with_sources(request_text, sources), policy)
    assert found.data.counterfactual is not None
    assert len(found.data.counterfactual) == 70
    assert any("left out" in note and "close the drawer" in note for note in found.notes)


def test_no_source_at_all_is_an_error(request_text: str, policy: VlaPolicy) -> None:
    request = with_sources(request_text, "[{kind: neighbour, instruction: close the drawer}]")
    with pytest.raises(UnlearningError, match="every source of counterfactual data is empty") as error:
        gather(request, policy)
    assert error.value.code == ErrorCode.UNLEARNING_EMPTY_RETAIN_SET


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("keep_out/hand_zone", "speed/limit", ErrorCode.UNLEARNING_EMPTY_FORGET_SET),
        ("instruction: open the faucet", "instruction: dance", ErrorCode.UNLEARNING_EMPTY_RETAIN_SET),
    ],
)
def test_empty_selections(request_text: str, policy: VlaPolicy, old: str, new: str, code: ErrorCode) -> None:
    with pytest.raises(UnlearningError) as error:
        gather(read_request(request_text.replace(old, new)), policy)
    assert error.value.code == code


def test_a_missing_bag(request_text: str, policy: VlaPolicy, bag: Path) -> None:
    with pytest.raises(UnlearningError) as error:
        gather(read_request(request_text.replace(f"[{bag}]", "[/nowhere]")), policy)
    assert error.value.code == ErrorCode.UNLEARNING_BAG_UNREADABLE


def test_nothing_that_is_measured_on_is_trained_on_in_any_set(
    request_text: str, policy: VlaPolicy, settings: EditSettings
) -> None:
    """The clean episodes are retained and pasted on, the bad ones are forgotten and asked about."""
    data = gather(read_request(request_text), policy).data
    rows = prepare(policy, data, settings, Guard(3600, 1e6)).rows
    sets = data.sets()
    trained = {e for name, frames in sets.items() for e in frames.episodes[rows.train[name]]}
    measured = {e for name, frames in sets.items() for e in frames.episodes[rows.held[name]]}
    assert rows.unheld == ()
    assert not trained & measured
    assert trained | measured == {e for frames in sets.values() for e in frames.episodes}
