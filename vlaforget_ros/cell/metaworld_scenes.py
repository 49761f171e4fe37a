"""The physical scenes: Meta-World 3 environments on MuJoCo, their goals and their scripted experts.

The two tasks of a pair run in one and the same environment from the same initial states, so that only the
instruction tells them apart. Goals follow Meta-World's own success tests (``evaluate_state`` of each
environment), written against positions so that both goals of a pair can be asked of one state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from metaworld.envs.sawyer_button_press_topdown_v3 import SawyerButtonPressTopdownEnvV3
from metaworld.envs.sawyer_coffee_button_v3 import SawyerCoffeeButtonEnvV3
from metaworld.envs.sawyer_faucet_open_v3 import SawyerFaucetOpenEnvV3
from metaworld.envs.sawyer_window_open_v3 import SawyerWindowOpenEnvV3
from metaworld.policies.sawyer_button_press_topdown_v3_policy import SawyerButtonPressTopdownV3Policy
from metaworld.policies.sawyer_coffee_button_v3_policy import SawyerCoffeeButtonV3Policy
from metaworld.policies.sawyer_faucet_close_v3_policy import SawyerFaucetCloseV3Policy
from metaworld.policies.sawyer_faucet_open_v3_policy import SawyerFaucetOpenV3Policy
from metaworld.policies.sawyer_window_close_v3_policy import SawyerWindowCloseV3Policy
from metaworld.policies.sawyer_window_open_v3_policy import SawyerWindowOpenV3Policy

# Start of the window in its pair: half open [m of 0.2 m travel].
_WINDOW_HALF_OPEN = 0.1


@dataclass(frozen=True)
class Task:
    """A goal in a scene.

    Args:
        object_position: handle the expert works on, (3,) [m], from the environment.
        distance: how far the goal is [m]; the task is done at or below ``radius``.
        radius: success radius [m].
        expert: Meta-World's scripted policy for it.
    """

    object_position: Callable[[Any], np.ndarray]
    distance: Callable[[Any], float]
    radius: float
    expert: Any

    def reached(self, env: Any) -> bool:
        """Whether the environment's present state fulfils the goal."""
        return self.distance(env) <= self.radius


def _site(name: str, offset: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Callable[[Any], np.ndarray]:
    return lambda env: env.data.site(name).xpos + np.array(offset)


def _faucet_distance(site: str, shift: tuple[float, float, float], side: float) -> Callable[[Any], float]:
    def distance(env: Any) -> float:
        handle = env.data.site(site).xpos + np.array([0.0, 0.0, -0.01]) + np.array(shift)
        target = env.obj_init_pos + np.array([side * 0.175, 0.0, 0.125])
        return float(np.linalg.norm(handle - target))

    return distance


def _window_distance(site: str, shift: float) -> Callable[[Any], float]:
    return lambda env: abs(float(env.data.site(site).xpos[0] - env.obj_init_pos[0] - shift))


TASKS: dict[str, Task] = {
    "faucet-open": Task(
        _site("handleStartOpen", (0.0, 0.0, -0.01)),
        _faucet_distance("handleStartOpen", (-0.04, 0.0, 0.03), +1.0),
        0.07,
        SawyerFaucetOpenV3Policy(),
    ),
    "faucet-close": Task(
        _site("handleStartClose", (0.0, 0.0, -0.01)),
        _faucet_distance("handleStartClose", (0.0, 0.0, 0.0), -1.0),
        0.07,
        SawyerFaucetCloseV3Policy(),
    ),
    "window-open": Task(
        _site("handleOpenStart"), _window_distance("handleOpenStart", 0.2), 0.05, SawyerWindowOpenV3Policy()
    ),
    "window-close": Task(
        _site("handleCloseStart"),
        _window_distance("handleCloseStart", 0.0),
        0.05,
        SawyerWindowCloseV3Policy(),
    ),
    "button-press": Task(
        lambda env: env._get_pos_objects(),
        lambda env: abs(float(env._target_pos[2] - env._get_pos_objects()[2])),
        0.024,
        SawyerButtonPressTopdownV3Policy(),
    ),
    "coffee": Task(
        lambda env: env._get_pos_objects(),
        lambda env: abs(float(env._target_pos[1] - env._get_pos_objects()[1])),
        0.02,
        SawyerCoffeeButtonV3Policy(),
    ),
}

_ENVIRONMENTS: dict[str, Any] = {
    "faucet": SawyerFaucetOpenEnvV3,
    "window": SawyerWindowOpenEnvV3,
    "button": SawyerButtonPressTopdownEnvV3,
    "coffee": SawyerCoffeeButtonEnvV3,
}


def make_environment(scene: str) -> Any:
    """A Meta-World environment whose reset is driven by a seed, without its pickled task list."""
    env = _ENVIRONMENTS[scene]()
    env._set_task_called = True
    env._freeze_rand_vec = False
    env.seeded_rand_vec = True
    env.max_path_length = 1_000_000
    return env


def reset_environment(scene: str, env: Any, seed: int) -> None:
    """Place the objects of a scene from a seed; the same seed gives the same state bit for bit."""
    # Meta-World's reset leaves the last episode's joint state in place; a rollout must not depend on the one before.
    mujoco.mj_resetData(env.model, env.data)
    env.set_state(env.init_qpos, env.init_qvel)
    env.seed(seed)
    env.reset()
    if scene == "window":
        env.data.joint("window_slide").qpos = _WINDOW_HALF_OPEN
    env.data.qvel[:] = 0.0
    mujoco.mj_forward(env.model, env.data)
