"""Messages to samples: the fields that matter, and what odd drivers send."""

from __future__ import annotations

import math

import pytest

from vlaforget_ros.bench.scripted import Script
from vlaforget_ros.safety.messages import READERS
from vlaforget_ros.safety.samples import INPUTS


def only(script: Script) -> object:
    ((_, topic, message),) = script.messages
    return READERS[topic](message)


def test_every_topic_gives_the_sample_of_its_input() -> None:
    made = Script().begin("r", "d")
    made.messages.clear()
    made.pose(1, 2, 3).joints(["a"], [0.5]).wrench(1, 2, 3).person(2.0).action(0.25, 1.0, fault=200)
    samples = [READERS[topic](message) for _, topic, message in made.messages]
    assert [type(sample) for sample in samples] == [INPUTS[topic] for _, topic, _ in made.messages]
    pose, joints, wrench, person, action = samples
    assert {sample.stamp_s for sample in samples} == {999.998}
    assert (pose.position, pose.frame) == ((1.0, 2.0, 3.0), "cell")  # type: ignore[union-attr]
    assert (joints.names, joints.positions, joints.velocities) == (("a",), (0.5,), ())  # type: ignore[union-attr]
    assert wrench.force == (1.0, 2.0, 3.0)  # type: ignore[union-attr]
    assert person.distance_m == 2.0  # type: ignore[union-attr]
    assert (action.action, action.adapter_digest, action.fault) == ((0.25, 1.0), "d", 200)  # type: ignore[union-attr]
    assert all(sample.problem == "" for sample in samples)


@pytest.mark.parametrize(
    ("said", "distance"),
    [(math.inf, 5.0), (9.0, 5.0), (-math.inf, 0.0), (0.05, 0.0), (0.25, 0.25), (4.0, 4.0)],
)
def test_a_range_that_cannot_be_measured_is_the_safe_side(said: float, distance: float) -> None:
    assert only(Script().person(said)).distance_m == distance  # type: ignore[attr-defined]


def test_a_range_of_nan_cannot_be_judged() -> None:
    assert "not finite" in only(Script().person(math.nan)).problem  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("velocities", "read"), [([0.5, 0.25], (0.5, 0.25)), ([math.nan, 0.0], ()), ([0.5], ()), ([], ())]
)
def test_velocities_that_are_not_all_there_are_not_reported(
    velocities: list[float], read: tuple[float, ...]
) -> None:
    assert only(Script().joints(["a", "b"], [1.0, 2.0], velocities)).velocities == read  # type: ignore[attr-defined]
