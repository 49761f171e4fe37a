"""A live policy that looks through two cameras, is told the robot's state, and decides eight actions at once; and
what a recorder writes down of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_parts import INSTRUCTION, Camera, Rest, Rollout, eventually, start_policy

from vlaforget_ros.episodes import TopicMap, read_episodes
from vlaforget_ros.episodes.storage.bags import Bag
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.prompt import build_tokenizer

pytestmark = pytest.mark.ros

REFERENCE = Path(__file__).resolve().parents[1] / "data" / "openvla_oft" / "two"
CAMERA_SIZE = 28
CAMERA_FOR = ("policy_node", "recorder_node")
STALE_AFTER_S = 60.0
STATE = [0.01 * number for number in range(8)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("oft") / "two"
    shutil.copytree(REFERENCE, folder)
    build_tokenizer((INSTRUCTION,), 64).save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def robot(graph: Any, client: Any, checkpoint: Path) -> Any:
    start_policy(graph, checkpoint, cameras="image_wrist", state="policy_state", stale_after_s=STALE_AFTER_S)
    graph.start("recorder", out=str(graph.folder / "bags"), cameras="image_wrist", state="policy_state")
    client.wait_until_ready(["policy_node", "recorder_node"], 90.0)
    return client


def _grey(level: int) -> np.ndarray:
    return np.full((28, 28, 3), level, dtype=np.uint8)


def _is_recorded(robot: Any, camera: Camera, bags: Path) -> bool:
    """Whether the policy's publishers know the recorder: a rollout in a bag of its own says so."""
    rollout = Rollout(robot, max_steps=60)
    camera.end(camera.show().rollout_id)
    rollout.result()
    robot.change_state("recorder_node", "deactivate")
    with Bag(max(bags.iterdir())) as bag:
        heard = {"/rollout", "/action"} <= set(bag.topics)
    robot.change_state("recorder_node", "activate")
    return heard


def test_it_holds_until_it_sees_everything_and_then_executes_its_chunk(
    robot: Any, graph: Any, camera: Camera, checkpoint: Path
) -> None:
    assert eventually(lambda: _is_recorded(robot, camera, graph.folder / "bags"))
    rollout = Rollout(robot, max_steps=60)
    blind = camera.show()
    assert (blind.fault, np.any(blind.action)) == (200, False)
    assert len(blind.action) == 7
    rest = Rest(camera, CAMERA_FOR)
    first = rest.show(camera, _grey(30), STATE)
    policy = VlaPolicy.load(checkpoint)
    views = np.stack([_grey(90), _grey(30)])
    wanted = policy.steps(policy.act(views, INSTRUCTION, np.array(STATE)).action)
    np.testing.assert_allclose(first.action, wanted[0], atol=1e-4)
    # What the cameras show now does not matter: these were decided with the first image.
    following = [rest.show(camera, _grey(200), STATE) for _ in range(8)]
    for answer, action in zip(following[:7], wanted[1:], strict=True):
        np.testing.assert_allclose(answer.action, action, atol=1e-4)
    # A busy machine may delay any of them, not each.
    assert min(answer.inference_ms for answer in following[:7]) < first.inference_ms
    again = policy.steps(policy.act(np.stack([views[0], _grey(200)]), INSTRUCTION, np.array(STATE)).action)
    np.testing.assert_allclose(following[7].action, again[0], atol=1e-4)
    camera.end(first.rollout_id)
    assert rollout.result().steps >= 10


def test_the_recorded_bag_shows_what_the_policy_saw(robot: Any, graph: Any, checkpoint: Path) -> None:
    """The first answer is recomputed from the bag alone."""
    robot.change_state("recorder_node", "deactivate")
    bag = max((graph.folder / "bags").iterdir())
    report = read_episodes(
        bag, TopicMap(cameras=("image_wrist",), state="policy_state", stale_after_s=STALE_AFTER_S)
    )
    (episode,) = report.episodes
    assert report.count("frames_without_camera") == report.count("frames_without_state") == 0
    assert len(episode) == 9
    assert episode.states is not None
    assert np.array_equal(episode.states, np.tile(STATE, (9, 1)))
    assert episode.view(1)[:, 0, 0, 0].tolist() == [30] + 8 * [200]
    policy = VlaPolicy.load(checkpoint)
    chunk = policy.steps(policy.act(episode.images[0], INSTRUCTION, episode.states[0]).action)
    np.testing.assert_allclose(episode.actions[:8], chunk, atol=1e-4)


def test_topics_that_do_not_fit_the_policy_are_refused_when_it_is_configured(
    graph: Any, domain: None, checkpoint: Path
) -> None:
    process = graph.start("policy", checkpoint=str(checkpoint), store=str(graph.folder / "store"))
    assert process.wait(120) == 1
    assert "parameter cameras does not fit the policy; value: none; limit: 1 topic(s)" in graph.log("policy")
    process = graph.start(
        "policy", checkpoint=str(checkpoint), store=str(graph.folder / "store"), cameras="image_wrist"
    )
    assert process.wait(120) == 1
    assert "parameter state does not fit the policy" in graph.log("policy")
