"""What the safety monitor costs, how soon it sees what is wrong, and how often it cries wolf."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from vlaforget_ros import figures
from vlaforget_ros.bench.monitor_scenes import clean, violations, write
from vlaforget_ros.bench.scripted import SECOND, Script, live
from vlaforget_ros.figures import Figure
from vlaforget_ros.paths import share_directory
from vlaforget_ros.safety.config import SafetyConfig, load_config
from vlaforget_ros.safety.events import Event
from vlaforget_ros.safety.exact import exact_interval
from vlaforget_ros.safety.monitor import SafetyMonitor
from vlaforget_ros.safety.replay import Found, Replayer
from vlaforget_ros.safety.samples import (
    ActionSample,
    DistanceSample,
    JointSample,
    PoseSample,
    ReferenceSample,
    Sample,
    WrenchSample,
)

Say = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and all of it."""


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Args:
        seconds: of each timed part, in real time [s].
        repeats: episodes of each violation.
        episodes: clean episodes.
        seed: of noise and onsets.
        dds: also run the node; needs ROS.
    """

    seconds: float = 10.0
    repeats: int = 5
    episodes: int = 100
    seed: int = 0
    dds: bool = True


def measure(settings: Settings, say: Say) -> dict[str, Any]:
    """All figures, with the rules of config/rules/arm.yaml.

    Args:
        settings: how much.
        say: progress.
    """
    rules_file = share_directory() / "config" / "rules" / "arm.yaml"
    config = load_config(rules_file)
    found = [*_decisions(config, settings, say), *_cpu(config, settings, say)]
    found += _violations(config, settings, say)
    found += _false_alarms(config, settings, say)
    if settings.dds:
        from vlaforget_ros.bench import monitor_live

        with TemporaryDirectory() as folder:
            found += monitor_live.measure(rules_file, Path(folder), settings.seconds, say)
    rules = [{"id": rule.id, "type": rule.type} for rule in config.rules]
    return figures.document("monitor", found, [settings.seed], rules=rules)


def _decisions(config: SafetyConfig, settings: Settings, say: Say) -> list[Figure]:
    """From the samples of one tick, one of every input, to the status: paced at 100 Hz."""
    monitor, took = _running(config), []

    def tick(samples: list[Sample]) -> None:
        begin = time.perf_counter()
        for sample in samples:
            monitor.take(sample)
        monitor.tick()
        monitor.status()
        took.append(1e3 * (time.perf_counter() - begin))

    _paced(100.0, settings.seconds, tick, lambda done, total: say("decisions at 100 Hz", done, total))
    p50, p99 = (float(np.percentile(took, q)) for q in (50, 99))
    return [
        Figure("decision_rules", float(len(config.rules)), "count"),
        Figure("decision_ms_p50", p50, "ms", len(took)),
        Figure("decision_ms_p99", p99, "ms", len(took)),
        Figure("decision_ms_max", float(max(took)), "ms", len(took)),
    ]


def _cpu(config: SafetyConfig, settings: Settings, say: Say) -> list[Figure]:
    """Processor time of the monitor at 10 Hz, in one process and without middleware."""
    monitor, used = _running(config), 0.0

    def tick(samples: list[Sample]) -> None:
        nonlocal used
        begin = time.thread_time()
        for sample in samples:
            monitor.take(sample)
        monitor.tick()
        monitor.status()
        used += time.thread_time() - begin

    begin = time.perf_counter()
    _paced(10.0, settings.seconds, tick, lambda done, total: say("processor at 10 Hz", done, total))
    share = 100.0 * used / (time.perf_counter() - begin)
    return [Figure("cpu_percent", share, "percent", round(10.0 * settings.seconds))]


def _running(config: SafetyConfig) -> SafetyMonitor:
    monitor = SafetyMonitor(config, time.monotonic)
    monitor.expect("d")
    monitor.rollout_started("before", "d")
    monitor.rollout_ended("before", "d", True)
    monitor.rollout_started("r", "d")
    return monitor


def _paced(
    rate_hz: float, seconds: float, tick: Callable[[list[Sample]], None], progress: Callable[[int, int], None]
) -> None:
    total, begin, pause = round(rate_hz * seconds), time.monotonic(), threading.Event()
    names = tuple(f"panda_joint{k}" for k in range(1, 8))
    for k in range(total):
        stamp, turn = 1000.0 + k / rate_hz, 0.05 * np.sin(0.01 * k)
        samples: list[Sample] = [
            PoseSample(stamp, (0.4 + float(turn), 0.0, 0.4), "base"),
            JointSample(stamp, names, (0.0, -0.5, 0.0, -2.0, 0.0, 1.6, 0.8)),
            WrenchSample(stamp, (0.0, 0.0, 5.0), (0.0, 0.0, 0.1)),
            DistanceSample(stamp, 3.0),
            ActionSample(stamp, "r", k, (0.01, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0), "d"),
            ReferenceSample(stamp, "r", k, (0.01, 0.0, 0.0, 0.0, 0.0, 0.01, 1.0)),
        ]
        pause.wait(max(0.0, begin + k / rate_hz - time.monotonic()))
        tick(samples)
        if k % max(1, total // 10) == 0 or k + 1 == total:
            progress(k + 1, total)


def _violations(config: SafetyConfig, settings: Settings, say: Say) -> list[Figure]:
    """Known violations in a bag: when they are seen, and whether live and replay agree."""
    generator = np.random.default_rng(settings.seed)
    script, known = Script(frame=config.frame), {}
    kinds = len(violations(config, 3.0))
    for number in range(settings.repeats * kinds):
        scene = violations(config, float(generator.uniform(3.0, 3.1)))[number % kinds]
        name = f"r{number}"
        known[name, scene.rule] = write(script, scene, name, generator)
        say("episodes with a violation", number + 1, settings.repeats * kinds)
    events, _ = live(config, script.messages)
    replayed = _replayed(config, script)
    waits, missed = [], 0
    for (name, rule), onset_ns in known.items():
        seen = [when for when, event in events if (event.rollout_id, event.rule) == (name, rule)]
        if seen:
            # Noise may carry a value across the limit a moment early.
            waits.append(max(0.0, (seen[0] - onset_ns) / SECOND))
        missed += not seen
    unexpected = sum((event.rollout_id, event.rule) not in known for _, event in events)
    total = len(known)
    return [
        Figure("violations", float(total), "count"),
        Figure("violations_missed", float(missed), "count", total),
        Figure("violations_unexpected", float(unexpected), "count", total),
        Figure("detection_s_p50", float(np.median(waits)), "s", len(waits)),
        Figure("detection_s_max", float(max(waits)), "s", len(waits)),
        Figure("replay_differences", float(_differences(events, replayed)), "count", len(events)),
    ]


def _false_alarms(config: SafetyConfig, settings: Settings, say: Say) -> list[Figure]:
    """Clean episodes with sensor noise in which the monitor says anything at all."""
    generator, alarmed, alarms = np.random.default_rng([settings.seed, 1]), 0, Counter[str]()
    for number in range(settings.episodes):
        script = Script(frame=config.frame)
        write(script, clean(), f"clean{number}", generator)
        events, _ = live(config, script.messages)
        alarmed += bool(events)
        alarms.update(event.rule for _, event in events)
        say("clean episodes", number + 1, settings.episodes)
    rate = exact_interval(alarmed, settings.episodes)
    values = [100.0 * value for value in (rate.estimate, rate.low, rate.high)]
    return [
        Figure("false_alarms_per_100", values[0], "count", settings.episodes, values[1], values[2]),
        Figure("false_alarms", float(alarms.total()), "count", settings.episodes),
    ]


def _replayed(config: SafetyConfig, script: Script) -> tuple[Found, ...]:
    with TemporaryDirectory() as folder:
        player = Replayer(config)
        player.play(script.record(Path(folder) / "bag"))
        return player.result().found


def _differences(events: list[tuple[int, Event]], replayed: tuple[Found, ...]) -> int:
    """Events that one of the two has and the other has not, with their time, value and message."""
    mine = Counter(repr(one) for one in events)
    theirs = Counter(repr((one.time_ns, one.event)) for one in replayed)
    return ((mine - theirs) + (theirs - mine)).total()
