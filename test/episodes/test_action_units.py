"""Values of a topic to the policy's units, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vlaforget_ros.episodes.mapped.mapping import ActionSource
from vlaforget_ros.episodes.mapped.units import to_action, to_state
from vlaforget_ros.errors import ErrorCode, UnlearningError

NEXT = np.array([1, 2, -1])


def source(**values: object) -> ActionSource:
    return ActionSource.model_validate({"topic": "t", **values})


def test_selection_scale_and_offset() -> None:
    raw = np.arange(12.0).reshape(3, 4)
    made = to_action(raw, NEXT, source(indices=[2, 0], scale=[10, 1], offset=[0, -1]))
    assert made.dtype == np.float32
    assert made.tolist() == [[20, -1], [60, 3], [100, 7]]
    assert to_state(raw, source(scale=0.5)).tolist() == (raw / 2).tolist()


def test_differences_leave_the_gripper_and_the_last_frame() -> None:
    raw = np.array([[0.0, 5.0, 0.1], [0.5, 5.0, 0.2], [2.0, 4.0, 0.3]])
    gripper = {"index": 2, "open": 0.0, "close": 0.4, "to_open": 1, "to_close": -1}
    made = to_action(raw, NEXT, source(delta=True, gripper=gripper))
    np.testing.assert_allclose(made[:2], [[0.5, 0.0, 0.5], [1.5, -1.0, 0.0]], atol=1e-6)
    assert np.isnan(made[2]).all()
    kept = to_action(raw, NEXT, source(delta=True, absolute=[1]))
    np.testing.assert_allclose(kept[:2], [[0.5, 5.0, 0.1], [1.5, 5.0, 0.1]], atol=1e-6)


def test_the_gripper_stays_between_its_ends() -> None:
    gripper = {"index": 0, "open": 100, "close": 0, "to_open": 0, "to_close": 1}
    made = to_action(
        np.array([[-20.0], [0.0], [25.0], [100.0], [500.0]]), np.zeros(5, int), source(gripper=gripper)
    )
    np.testing.assert_allclose(made[:, 0], [1, 1, 0.75, 0, 0])


@pytest.mark.parametrize("kind", ["rotvec", "euler"])
def test_turns_between_poses(kind: str) -> None:
    turns = Rotation.from_euler("xyz", [[0, 0, 0.3], [0.2, 0, 0.3], [0.2, 0.1, 0.5]])
    raw = np.concatenate([np.arange(9.0).reshape(3, 3), turns.as_quat(), np.ones((3, 1))], axis=1)
    made = to_action(raw, NEXT, source(rotation=3, rotation_as=kind, delta=True, absolute=[6]))
    assert made.shape == (3, 7)
    np.testing.assert_allclose(made[:2, :3], [[3, 3, 3]] * 2)
    np.testing.assert_allclose(made[:2, 6], [1, 1])
    for frame in range(2):
        angles = made[frame, 3:6]
        turn = Rotation.from_rotvec(angles) if kind == "rotvec" else Rotation.from_euler("xyz", angles)
        # The turn in the fixed frame leads from this pose to the next.
        np.testing.assert_allclose((turn * turns[frame]).as_matrix(), turns[frame + 1].as_matrix(), atol=1e-6)
    assert np.isnan(made[2]).all()
    plain = to_action(raw, NEXT, source(rotation=3, rotation_as=kind))
    expected = turns.as_rotvec() if kind == "rotvec" else turns.as_euler("xyz")
    np.testing.assert_allclose(plain[:, 3:6], expected, atol=1e-6)


def test_what_cannot_be_made_is_not_a_number() -> None:
    raw = np.array([[0.0, 0, 0, 0], [0, 0, 0, 1], [np.nan, 0, 0, 1]])
    made = to_action(raw, NEXT, source(rotation=0))
    assert np.isnan(made).all(axis=1).tolist() == [True, False, True]
    turned = to_action(raw, NEXT, source(rotation=0, delta=True))
    assert np.isnan(turned).all()  # no rotation here, a broken next one there, no next one
    assert to_action(np.zeros((0, 4)), np.zeros(0, int), source(rotation=0)).shape == (0, 3)


@pytest.mark.parametrize(
    "values",
    [
        {"indices": [9]},
        {"scale": [1, 2]},
        {"offset": [1, 2, 3, 4, 5]},
        {"rotation": 1},
        {"gripper": {"index": 4, "open": 1, "close": 0}},
        {"delta": True, "absolute": [7]},
    ],
    ids=str,
)
def test_values_that_are_not_there_are_named(values: dict[str, object]) -> None:
    with pytest.raises(UnlearningError) as caught:
        to_action(np.zeros((3, 4)), NEXT, source(**values))
    assert caught.value.code is ErrorCode.UNLEARNING_BAD_REQUEST
    assert list(values)[-1] in str(caught.value)
