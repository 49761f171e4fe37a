"""One policy process that serves two arms with one model: each has its own namespace, adapter and rollback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from live_parts import INSTRUCTION, Camera, Rollout, start_policy

from vlaforget_ros.adapters import AdapterStore
from vlaforget_ros.policy.policy import VlaPolicy

AddAdapter = Callable[[AdapterStore, str, str, int], str]
pytestmark = pytest.mark.ros
NAMES = ("left", "right")


@pytest.fixture(scope="module")
def digests(graph: Any, tiny: Any, add_adapter: AddAdapter) -> list[str]:
    store = AdapterStore(graph.folder / "store")
    return [add_adapter(store, tiny.digest, f"edit-{seed}", seed) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def robots(graph: Any, tiny: Any, digests: list[str]) -> Iterator[list[Any]]:
    from vlaforget_ros.nodes.client import RobotClient

    # Inferences of one arm wait for those of the other for longer than a busy machine takes to send an image.
    start_policy(graph, tiny.folder, arms="left, right", arms_wait_ms=500.0)
    made = [RobotClient(namespace=name, timeout_s=90.0) for name in NAMES]
    for robot in made:
        robot.wait_until_ready(["policy_node"], 120.0)
    yield made
    for robot in made:
        robot.close()


@pytest.fixture(scope="module")
def cameras(robots: list[Any]) -> Iterator[list[Camera]]:
    made = [Camera(robot, namespace=name) for name, robot in zip(NAMES, robots, strict=True)]
    yield made
    for camera in made:
        camera.close()


def test_two_arms_drive_at_once_each_with_its_own_adapter(
    graph: Any, robots: list[Any], cameras: list[Camera], digests: list[str], tiny: Any
) -> None:
    for robot, digest in zip(robots, digests, strict=False):
        assert robot.swap(digest).active_digest == digest
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    rollouts = [Rollout(robot, max_steps=4) for robot in robots]

    with ThreadPoolExecutor(2) as pool:
        answers = [
            list(pool.map(lambda pair: pair[0].show(image=pair[1]), zip(cameras, images, strict=True)))
            for _ in range(4)
        ]
    ended = [rollout.result() for rollout in rollouts]

    assert [[a.adapter_digest for a in pair] for pair in answers] == [digests[:2]] * 4
    assert [[a.step for a in pair] for pair in answers] == [[step, step] for step in range(4)]
    assert all(a.fault == 0 for pair in answers for a in pair)
    assert [result.steps for result in ended] == [4, 4]
    policy, store = VlaPolicy.load(tiny.folder), AdapterStore(graph.folder / "store")
    for row, digest in enumerate(digests[:2]):
        alone = alone_action(policy, store, digest, images[row])
        for pair in answers:
            np.testing.assert_array_equal(np.array(pair[row].action, np.float32), alone)


def alone_action(policy: VlaPolicy, store: AdapterStore, digest: str, image: np.ndarray) -> np.ndarray:
    """What a policy that serves one arm does."""
    from vlaforget_ros.policy.engine import InferenceEngine

    with InferenceEngine(policy, store) as engine:
        engine.swap(digest)
        return np.asarray(engine.infer(image, INSTRUCTION).prediction.action, np.float32)


def test_a_rollback_of_one_arm_is_no_affair_of_the_other(robots: list[Any], digests: list[str]) -> None:
    left, right = robots
    left.swap(digests[0])
    right.swap(digests[1])
    right.swap(digests[2])
    assert left.rollback("the left one misbehaves").previous_digest == digests[0]
    assert right.wait_for_policy(lambda s: s.active_digest == digests[2]).active_digest == digests[2]
    assert right.rollback("and now the right one").active_digest == digests[1]
    shown = {info.digest for info in left.list_adapters() if info.resident}
    assert {digests[1], digests[2]} <= shown, "what one arm keeps in memory, both have there"


def test_one_arm_goes_down_and_comes_up_while_the_other_serves(
    robots: list[Any], cameras: list[Camera], digests: list[str]
) -> None:
    left, right = robots
    right.swap(digests[1])
    left.change_state("policy_node", "deactivate")
    left.change_state("policy_node", "cleanup")
    # The newest image of the test before may be its first observation.
    rollout = Rollout(right, max_steps=60)
    answer = cameras[1].show()
    assert (answer.adapter_digest, answer.fault) == (digests[1], 0)
    cameras[1].end(answer.rollout_id)
    assert rollout.result().steps == answer.step + 1
    left.change_state("policy_node", "configure")
    left.change_state("policy_node", "activate")
    left.wait_until_ready(["policy_node"])
    assert left.swap(digests[0]).active_digest == digests[0]
    assert right.wait_for_policy(lambda status: True).active_digest == digests[1]


def test_ctrl_c_ends_both(graph: Any, robots: list[Any]) -> None:
    assert graph.stop("policy") == 0
