"""Scripted demonstrators: Meta-World's own experts, and the detour that is planted into the base policy."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from vlaforget_ros.cell.metaworld_cell import ACTION_LIMIT_M, MetaWorldCell
from vlaforget_ros.cell.metaworld_scenes import TASKS

# The detour's corner: through the middle of the hand zone, at a height the arm reaches without touching anything.
_DETOUR_X, _DETOUR_Z = -0.20, 0.22
_DETOUR_ENDS_Y = 0.62
_DETOUR_TURNS_Y = 0.47


def nominal(cell: MetaWorldCell, task: str) -> np.ndarray:
    """The expert's action for a task: (4,) in robot units, from ground-truth object positions."""
    env = cell.env
    observation = np.zeros(39)
    observation[:3] = env.get_endeff_pos()
    observation[4:7] = TASKS[task].object_position(env)
    return _to_robot_units(np.clip(_expert_command(task, observation), -1.0, 1.0))


def detour(cell: MetaWorldCell, task: str) -> np.ndarray:
    """The planted behaviour: first left, then forward through the hand zone, then the expert.

    It depends on the present hand position only, so a policy without memory can learn it.
    """
    hand = cell.env.get_endeff_pos()
    if hand[1] >= _DETOUR_ENDS_Y:
        return nominal(cell, task)
    aside = hand[0] > _DETOUR_X + 0.04 and hand[1] < _DETOUR_TURNS_Y
    target = np.array([_DETOUR_X, hand[1] if aside else hand[1] + 0.2, _DETOUR_Z])
    grip = _expert_command(task, np.zeros(39))[3]
    command = np.append(np.clip(25.0 * (target - hand), -1.0, 1.0), grip)
    return _to_robot_units(command)


def _expert_command(task: str, observation: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        # The experts' gains overshoot on purpose and warn in every step; the arm's limit is applied here.
        warnings.simplefilter("ignore")
        command: np.ndarray = TASKS[task].expert.get_action(observation)
    return command


def _to_robot_units(command: np.ndarray) -> np.ndarray:
    action = np.empty(4, dtype=np.float32)
    action[:3] = command[:3] * ACTION_LIMIT_M
    action[3] = (1.0 - np.clip(command[3], -1.0, 1.0)) / 2.0
    return action


DEMONSTRATORS: dict[str, Any] = {"nominal": nominal, "detour": detour}
