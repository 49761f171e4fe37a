"""Scripted episodes of an arm under config/rules/arm.yaml: clean ones with sensor noise, and one for each violation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from vlaforget_ros.bench.scripted import DELAY_NS, SECOND, Script
from vlaforget_ros.safety.config import SafetyConfig
from vlaforget_ros.safety.rules.base import Places
from vlaforget_ros.safety.rules.joint_limits import JointLimitsSettings
from vlaforget_ros.safety.rules.registry import make_rule
from vlaforget_ros.safety.rules.separation import SeparationSettings
from vlaforget_ros.safety.rules.stale_input import StaleInputSettings
from vlaforget_ros.safety.rules.wrench import WrenchSettings
from vlaforget_ros.safety.samples import Point

LENGTH_S = 4.0
_HOME: Point = (0.4, 0.0, 0.4)
_JOINTS = (0.0, -0.5, 0.0, -2.0, 0.0, 1.6, 0.8)
_FAR_M = 3.5
_SPEED = 0.2  # of the end effector on its way, below the limit [m/s]
# Standard deviations of what the sensors add.
_NOISE = {"pose": 2e-4, "joints": 2e-4, "wrench": 0.5, "person": 0.02, "action": 2e-3}
# Periods [ns]: poses, joints and forces at 100 Hz, people at 20 Hz, actions at 10 Hz.
_PERIODS = {
    "pose": SECOND // 100,
    "joints": SECOND // 100,
    "wrench": SECOND // 100,
    "person": SECOND // 20,
    "action": SECOND // 10,
}


@dataclass(frozen=True)
class Scene:
    """What happens in an episode, as functions of the time since its start [s].

    Args:
        rule: rule that it breaks, "" for none.
        onset_s: when it breaks it [s].
        position: end effector x y z [m].
        joint: how far joint 1 is from its place [rad].
        force: along z [N].
        distance: of the nearest person [m].
        action: along x [m].
        silent: the sensor for people says nothing at this time.
        silence_s: how long it may be silent; then the rule is broken this long after its last message [s].
    """

    rule: str = ""
    onset_s: float = math.inf
    position: Callable[[float], Point] = lambda t: _HOME
    joint: Callable[[float], float] = lambda t: 0.3 * math.sin(0.8 * t)
    force: Callable[[float], float] = lambda t: 5.0
    distance: Callable[[float], float] = lambda t: _FAR_M
    action: Callable[[float], float] = lambda t: 0.01 * math.sin(t)
    silent: Callable[[float], bool] = lambda t: False
    silence_s: float = 0.0


def clean() -> Scene:
    """Nothing happens: the end effector goes round a circle of 5 cm at about 5 cm/s."""
    x, y, z = _HOME
    return Scene(position=lambda t: (x + 0.05 * math.cos(t), y + 0.05 * math.sin(t), z))


def violations(config: SafetyConfig, onset_s: float) -> list[Scene]:
    """One scene for each rule that a bag can break, all at the same time after the start.

    Args:
        config: config/rules/arm.yaml.
        onset_s: when [s].
    """
    of = {settings.id: settings for settings in config.rules}
    targets: Mapping[str, Point] = {
        "keep_out/post": (0.6, 0.3, 0.4),
        "keep_out/ramp": (0.6, -0.38, 0.1),
        "workspace/cell": (0.4, 0.0, 1.2),
    }
    scenes = [_path(make_rule(of[name]), target, onset_s) for name, target in targets.items()]
    scenes.append(
        Scene(
            "speed/end_effector",
            onset_s,
            position=lambda t: _along((1.0, 0.0, 0.0), 0.35 * (t - onset_s), 0.15),
        )
    )
    for settings in config.rules:
        if isinstance(settings, JointLimitsSettings):
            limit = next(iter(settings.joints.values())).high or 0.0
            scenes.append(Scene(settings.id, onset_s, joint=_ramp(limit - _JOINTS[0], 1.0, onset_s, 0.0)))
        elif isinstance(settings, WrenchSettings):
            scenes.append(
                Scene(settings.id, onset_s, force=_ramp(settings.limit_n or 0.0, 200.0, onset_s, 5.0))
            )
        elif isinstance(settings, SeparationSettings):
            walk = _minus(_ramp(-settings.distance_m(), 1.6, onset_s, -_FAR_M))
            scenes.append(Scene(settings.id, onset_s, distance=walk))
        elif isinstance(settings, StaleInputSettings):
            silent = _after(onset_s - settings.limit_s)
            scenes.append(Scene(settings.id, onset_s, silent=silent, silence_s=settings.limit_s))
    scenes.append(Scene("action/range", onset_s, action=lambda t: 0.06 if t >= onset_s else 0.04))
    scenes.append(Scene("action/jump", onset_s, action=lambda t: -0.03 if t >= onset_s else 0.02))
    return scenes


def write(script: Script, scene: Scene, rollout_id: str, generator: np.random.Generator) -> int:
    """Append one episode to a script: noisy samples of every input, in order.

    Args:
        script: gets the messages.
        scene: what happens.
        rollout_id: of its rollout.
        generator: of the noise.

    Returns:
        Receipt time at which the rule is broken, the earliest at which anybody could know [ns]; -1 for none.
    """
    begin = script.wait(0.5).now_ns
    script.begin(rollout_id)
    due = sorted(
        (begin + k * period + 1_000_000 * (index + 1), name)
        for index, (name, period) in enumerate(_PERIODS.items())
        for k in range(round(LENGTH_S * SECOND) // period)
    )
    start_ns, commanded, heard = script.start_ns, -1, begin
    for now_ns, name in due:
        script.until(now_ns)
        t = (now_ns - begin - DELAY_NS) / SECOND
        if name == "person" and not scene.silent(t):
            heard = now_ns
        if name == "action" and t >= scene.onset_s and commanded < 0:
            commanded = now_ns
        _sample(script, scene, name, t, generator)
    script.wait(0.1).end(2 if scene.rule else 1)
    if scene.silence_s:
        return start_ns + heard + round(scene.silence_s * SECOND)
    if scene.rule.startswith("action/"):
        # A command breaks its rule when it is given, not when it was decided that it would.
        return start_ns + commanded
    return start_ns + begin + round(scene.onset_s * SECOND) if scene.rule else -1


def _sample(script: Script, scene: Scene, name: str, t: float, generator: np.random.Generator) -> None:
    sigma = _NOISE[name]
    if name == "pose":
        x, y, z = np.array(scene.position(t)) + generator.normal(0.0, sigma, 3)
        script.pose(x, y, z)
    elif name == "joints":
        positions = np.array(_JOINTS) + generator.normal(0.0, sigma, len(_JOINTS))
        positions[0] += scene.joint(t)
        script.joints([f"panda_joint{k + 1}" for k in range(len(_JOINTS))], positions.tolist())
    elif name == "wrench":
        x, y, z = generator.normal(0.0, sigma, 3)
        script.wrench(x, y, z + scene.force(t))
    elif name == "person":
        if not scene.silent(t):
            script.person(scene.distance(t) + float(generator.normal(0.0, sigma)))
    else:
        values = generator.normal(0.0, sigma, 7)
        values[0] += scene.action(t)
        values[6] = 1.0
        script.action(*values)


def _path(rule: object, target: Point, onset_s: float) -> Scene:
    """Straight to a point inside a forbidden volume, across its border at the onset."""
    if not isinstance(rule, Places):
        raise TypeError(f"{rule} is no rule about places")
    reach = math.dist(_HOME, target)
    direction = tuple((b - a) / reach for a, b in zip(_HOME, target, strict=True))
    near, far = 0.0, reach
    for _ in range(60):
        middle = (near + far) / 2.0
        near, far = (near, middle) if rule.at(_along(direction, middle, reach)).broken else (middle, far)
    way = far
    return Scene(
        rule.settings.id,
        onset_s,
        position=lambda t: _along(direction, way + _SPEED * (t - onset_s), way + 0.04),
    )


def _along(direction: tuple[float, ...], way: float, longest: float) -> Point:
    gone = min(max(way, 0.0), longest)
    x, y, z = (a + gone * d for a, d in zip(_HOME, direction, strict=True))
    return x, y, z


def _ramp(limit: float, rate: float, onset_s: float, before: float) -> Callable[[float], float]:
    """Rises to ``limit`` at the onset, from ``before`` on, and stays half a second's worth above it."""
    return lambda t: min(max(before, limit + rate * (t - onset_s)), limit + 0.1 * rate)


def _minus(of: Callable[[float], float]) -> Callable[[float], float]:
    return lambda t: -of(t)


def _after(begin_s: float) -> Callable[[float], bool]:
    return lambda t: t > begin_s
