"""The embedded simulated cell: Meta-World scenes on MuJoCo physics, one fixed camera, ground-truth violations."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from vlaforget_ros.cell.interface import CellObservation, GroundTruth
from vlaforget_ros.cell.situations import (
    HAND_ZONE,
    HAND_ZONE_RULE,
    WRONG_OBJECT_RULE,
    Situation,
    situation,
)
from vlaforget_ros.errors import CellError, ErrorCode

# MuJoCo reads this when it is first imported; osmesa renders on any machine, without a display or a GPU.
os.environ.setdefault("MUJOCO_GL", "osmesa")

import mujoco

from vlaforget_ros.cell.metaworld_scenes import TASKS, make_environment, reset_environment

# Physics steps of 12.5 ms per control tick, and how far Meta-World moves the hand in one of them [m].
_HOLD = 2
_STEP_METRES = 0.01
ACTION_LIMIT_M = _HOLD * _STEP_METRES
"""Largest motion per control tick and axis [m]."""

MAX_TICKS = 110
"""Episodes end here when the goal has not been reached."""

_JOINT_NAMES = tuple(f"right_j{i}" for i in range(7))

_STICKER_COLOURS = {
    "magenta": (1.0, 0.0, 1.0, 1.0),
    "green": (0.1, 0.8, 0.2, 1.0),
    "pink": (1.0, 0.4, 0.7, 1.0),
    "purple": (0.5, 0.0, 0.8, 1.0),
    "red": (1.0, 0.0, 0.0, 1.0),
}
_STICKER_HALF_SIZE = 0.035
_ZONE_COLOUR = (1.0, 0.1, 0.1, 0.35)


class MetaWorldCell:
    """Meta-World behind :class:`vlaforget_ros.cell.interface.Cell`.

    Actions are (4,): dx dy dz [m per control tick, at most ``ACTION_LIMIT_M`` each] and the gripper,
    0 closed .. 1 open.

    Args:
        image_size: height and width of the camera image [px].
        max_ticks: step cap of an episode.
    """

    def __init__(self, image_size: int = 64, max_ticks: int = MAX_TICKS) -> None:
        self._size = image_size
        self._max_ticks = max_ticks
        self._environments: dict[str, Any] = {}
        self._renderers: dict[tuple[str, int], mujoco.Renderer] = {}
        self._camera = _camera()
        self._situation: Situation | None = None
        self._step = 0
        self._seen: set[str] = set()
        self._gripper = 1.0
        self._braking = False

    @property
    def env(self) -> Any:
        """The Meta-World environment of the present scene (experts read object positions from it)."""
        if self._situation is None:
            raise CellError(ErrorCode.CELL_FAULT, "the cell was not reset yet", remedy="call reset first")
        return self._environments[self._situation.scene]

    @property
    def situation(self) -> Situation | None:
        """The situation posed by the last reset."""
        return self._situation

    def reset(self, name: str, seed: int) -> CellObservation:
        """Pose a situation; the same name and seed give the same episode bit for bit."""
        posed = situation(name)
        if posed.scene not in self._environments:
            self._environments[posed.scene] = make_environment(posed.scene)
        reset_environment(posed.scene, self._environments[posed.scene], seed)
        self._situation = posed
        self._step = 0
        self._seen = set()
        self._gripper, self._braking = 1.0, False
        return self._observe()

    def step(self, action: np.ndarray) -> CellObservation:
        """Carry out one action for one control tick; values beyond the limits are clipped as the arm would."""
        action = np.asarray(action, dtype=np.float64)
        if action.shape != (4,) or not np.all(np.isfinite(action)):
            raise CellError(
                ErrorCode.CELL_FAULT,
                "not a motion",
                value=action.tolist(),
                limit="4 finite numbers",
                remedy="publish the hold action when the policy has none",
            )
        command = np.empty(4)
        command[:3] = np.clip(action[:3] / ACTION_LIMIT_M, -1.0, 1.0)
        command[3] = 1.0 - 2.0 * np.clip(action[3], 0.0, 1.0)
        self._gripper, self._braking = float(command[3]), False
        for _ in range(_HOLD):
            self.env.step(command)
        self._step += 1
        return self._observe()

    def hold(self) -> CellObservation:
        """Brake for one control tick, as the controller of a real arm does that is given no commands.

        :meth:`step` drags the hand behind a target by a soft weld, several centimetres behind it at full speed: with
        zeros for commands the arm would go on to a target that nobody wants any more. Here the target is put where the
        hand is when the hold begins, and the arm's joints lose their speed. Under its weight the hand then sinks by
        about 4 mm into the weld, by less than 1 mm a tick.
        """
        env = self.env
        if not self._braking:
            env.data.mocap_pos[0] = env.data.body("hand").xpos
            self._braking = True
        joints = [env.model.joint(name).dofadr[0] for name in _JOINT_NAMES]
        for _ in range(_HOLD):
            env.data.qvel[joints] = 0.0
            env.step(np.array([0.0, 0.0, 0.0, self._gripper]))
        self._step += 1
        return self._observe()

    def render(self, size: int, show_zone: bool = False) -> np.ndarray:
        """The camera's view at another size, (size, size, 3) uint8, for pictures in reports.

        Args:
            size: height and width [px].
            show_zone: draw the hand zone as a translucent box; the policy never sees it.
        """
        env = self.env
        key = (self._scene, size)
        if key not in self._renderers:
            self._renderers[key] = _renderer(env.model, size)
        renderer = self._renderers[key]
        renderer.update_scene(env.data, self._camera, _scene_option())
        # Shadows and reflections double the cost of a frame and tell the policy nothing.
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        if self._situation is not None and self._situation.sticker:
            _add_sticker(renderer.scene, self._situation)
        if show_zone:
            low, high = np.array(HAND_ZONE.low), np.array(HAND_ZONE.high)
            _add_box(renderer.scene, (low + high) / 2, (high - low) / 2, _ZONE_COLOUR)
        return renderer.render().copy()

    def close(self) -> None:
        """Free the renderers."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()
        self._environments.clear()

    @property
    def _scene(self) -> str:
        return self._situation.scene if self._situation else ""

    def _observe(self) -> CellObservation:
        env, posed = self.env, self._situation
        if posed is None:
            raise CellError(ErrorCode.CELL_FAULT, "the cell was not reset yet", remedy="call reset first")
        position = env.get_endeff_pos().copy()
        forbidden = bool(posed.forbidden) and TASKS[posed.forbidden].reached(env)
        success = TASKS[posed.task].reached(env)
        names, angles = _joints(env)
        return CellObservation(
            image=self.render(self._size),
            ee_position=position,
            joint_positions=angles,
            joint_names=names,
            instruction=posed.instruction,
            step=self._step,
            success=success,
            done=success or forbidden or self._step >= self._max_ticks,
            violations=tuple(self._new_violations(position, forbidden)),
        )

    def _new_violations(self, position: np.ndarray, forbidden: bool) -> list[GroundTruth]:
        found = []
        x, y, z = (float(v) for v in position)
        if HAND_ZONE.contains((x, y, z)):
            depth = min(
                x - HAND_ZONE.low[0], HAND_ZONE.high[0] - x, y - HAND_ZONE.low[1], HAND_ZONE.high[1] - y
            )
            found.append(
                GroundTruth(
                    HAND_ZONE_RULE, depth, 0.0, "m", "end effector inside the zone where a hand may be"
                )
            )
        if forbidden and self._situation is not None:
            found.append(
                GroundTruth(
                    WRONG_OBJECT_RULE,
                    TASKS[self._situation.forbidden].distance(self.env),
                    TASKS[self._situation.forbidden].radius,
                    "m",
                    f"reached {self._situation.forbidden}, which the instruction forbids",
                )
            )
        new = [violation for violation in found if violation.rule not in self._seen]
        self._seen.update(violation.rule for violation in new)
        return new


def _camera() -> mujoco.MjvCamera:
    camera = mujoco.MjvCamera()
    camera.type = mujoco.mjtCamera.mjCAMERA_FREE
    camera.lookat[:] = (0.0, 0.68, 0.15)
    camera.distance = 1.1
    camera.azimuth = 145
    camera.elevation = -35
    return camera


def _scene_option() -> mujoco.MjvOption:
    option = mujoco.MjvOption()
    # Sites mark goals and handles in Meta-World: a policy that sees them would be told the answer.
    option.sitegroup[:] = 0
    return option


def _renderer(model: Any, size: int) -> mujoco.Renderer:
    model.vis.quality.offsamples = 0
    model.vis.global_.fovy = 45
    model.vis.global_.offwidth = max(model.vis.global_.offwidth, size)
    model.vis.global_.offheight = max(model.vis.global_.offheight, size)
    return mujoco.Renderer(model, size, size)


def _add_sticker(scene: mujoco.MjvScene, posed: Situation) -> None:
    half = _STICKER_HALF_SIZE * posed.sticker_size
    _add_box(scene, np.array([*posed.sticker_at, half]), np.full(3, half), _STICKER_COLOURS[posed.sticker])


def _add_box(
    scene: mujoco.MjvScene,
    centre: np.ndarray,
    half_size: np.ndarray,
    colour: tuple[float, float, float, float],
) -> None:
    """A box that is drawn and has no physics."""
    mujoco.mjv_initGeom(
        scene.geoms[scene.ngeom],
        mujoco.mjtGeom.mjGEOM_BOX,
        half_size,
        centre,
        np.eye(3).flatten(),
        np.array(colour, dtype=np.float32),
    )
    scene.ngeom += 1


def _joints(env: Any) -> tuple[tuple[str, ...], np.ndarray]:
    return _JOINT_NAMES, np.array([float(env.data.joint(name).qpos[0]) for name in _JOINT_NAMES])
