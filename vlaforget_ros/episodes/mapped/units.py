"""Recorded commands or poses to the units of the policy: selection, differences, rotation, scale, gripper. Pure."""

from __future__ import annotations

import numpy as np

from vlaforget_ros.episodes.mapped.mapping import ActionSource, Gripper, VectorSource
from vlaforget_ros.errors import ErrorCode, UnlearningError

_QUATERNION, _ANGLES = 4, 3


def to_state(raw: np.ndarray, source: VectorSource) -> np.ndarray:
    """(N, D) values to (N, P): ``indices``, ``scale``, ``offset``.

    Raises:
        UnlearningError: 300 for indices that there are not, or another number of factors than of values.
    """
    return _scaled(_chosen(raw, source), source)


def to_action(raw: np.ndarray, following: np.ndarray, source: ActionSource) -> np.ndarray:
    """(N, D) values to (N, A) float32 actions.

    Args:
        raw: of each frame.
        following: (N,) index of the next frame in the same rollout, -1 for none; with ``delta`` only.
        source: what is done to them.

    Returns:
        rows of NaN where an action cannot be made: no next frame, no rotation, not finite.

    Raises:
        UnlearningError: 300 as :func:`to_state`, or for a rotation or gripper outside the values.
    """
    values = _chosen(raw, source)
    if source.rotation is None:
        values = _differences(values, following, source) if source.delta else values
    else:
        values = _rotated(values, following, source, source.rotation)
    values = _scaled(values, source)
    if source.gripper is not None:
        values = _gripped(values, source.gripper)
    values[~np.isfinite(values).all(axis=1)] = np.nan
    return values.astype(np.float32)


def _chosen(raw: np.ndarray, source: VectorSource) -> np.ndarray:
    values = np.array(raw, dtype=np.float64)
    if not source.indices:
        return values
    _require(max(source.indices) < values.shape[1], "indices", max(source.indices), values.shape[1])
    return values[:, source.indices]


def _scaled(values: np.ndarray, source: VectorSource) -> np.ndarray:
    for name in ("scale", "offset"):
        each = getattr(source, name)
        if isinstance(each, tuple) and len(each) != values.shape[1]:
            raise _bad(f"{name} has {len(each)} values", f"{values.shape[1]} values, or one for all")
    return values * np.asarray(source.scale) + np.asarray(source.offset)


def _differences(values: np.ndarray, following: np.ndarray, source: ActionSource) -> np.ndarray:
    keep = set(source.absolute) | ({source.gripper.index} if source.gripper is not None else set())
    _require(max(keep, default=0) < values.shape[1], "absolute", max(keep, default=0), values.shape[1])
    moved = np.array([column not in keep for column in range(values.shape[1])])
    found = values.copy()
    found[:, moved] = values[following][:, moved] - values[:, moved]
    found[following < 0] = np.nan
    return found


def _rotated(values: np.ndarray, following: np.ndarray, source: ActionSource, at: int) -> np.ndarray:
    # Here, for it takes a second and most bags need no rotation.
    from scipy.spatial.transform import Rotation

    end = at + _QUATERNION
    _require(end <= values.shape[1], "rotation", at, values.shape[1] - _QUATERNION + 1)
    quaternions = values[:, at:end].copy()
    sound = np.isfinite(quaternions).all(axis=1) & (np.linalg.norm(quaternions, axis=1) > 1e-6)
    quaternions[~sound] = (0.0, 0.0, 0.0, 1.0)
    turns = Rotation.from_quat(quaternions) if len(values) else None
    # The three angles take the place of the quaternion, so that indices count finished values.
    found = np.concatenate([values[:, :at], np.zeros((len(values), _ANGLES)), values[:, end:]], axis=1)
    if source.delta:
        found = _differences(found, following, source)
        turns = turns[following] * turns.inv() if turns is not None else None
        sound &= sound[following]
    if turns is not None:
        angles = turns.as_rotvec() if source.rotation_as == "rotvec" else turns.as_euler("xyz")
        found[:, at : at + _ANGLES] = angles
    found[~sound] = np.nan
    if source.delta:
        found[following < 0] = np.nan
    return found


def _gripped(values: np.ndarray, gripper: Gripper) -> np.ndarray:
    _require(gripper.index < values.shape[1], "gripper.index", gripper.index, values.shape[1])
    share = np.clip((values[:, gripper.index] - gripper.close) / (gripper.open - gripper.close), 0.0, 1.0)
    values[:, gripper.index] = gripper.to_close + share * (gripper.to_open - gripper.to_close)
    return values


def _require(good: bool, field: str, value: int, size: int) -> None:
    if not good:
        raise _bad(f"{field} names value {value}", f"less than {size}")


def _bad(what: str, limit: str) -> UnlearningError:
    return UnlearningError(
        ErrorCode.UNLEARNING_BAD_REQUEST,
        f"bad mapping: {what}",
        value=what,
        limit=limit,
        remedy="count the values that `fields` and `indices` give, from 0",
    )
