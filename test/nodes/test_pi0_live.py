"""A live pi0-FAST: the chunks of lerobot arrive over DDS one action after the other, and a malformed one as a fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_parts import Camera, Rest, Rollout, start_policy
from safetensors.numpy import load_file

pytestmark = pytest.mark.ros

REFERENCE = Path(__file__).resolve().parents[1] / "data" / "pi0_fast" / "two"
TENSORS = load_file(REFERENCE / "reference.safetensors")
CASES = json.loads((REFERENCE / "reference.json").read_text())["cases"]


@pytest.fixture(scope="module")
def robot(graph: Any, client: Any) -> Any:
    start_policy(graph, REFERENCE, cameras="image_wrist", state="policy_state")
    client.wait_until_ready(["policy_node"], 90.0)
    return client


def _observation(case: int) -> dict[str, Any]:
    main, wrist = TENSORS[f"{case}.images"][0]
    return {"main": main, "wrist": wrist, "state": TENSORS[f"{case}.state"][0].tolist()}


def test_the_chunk_of_lerobot_arrives_action_by_action(robot: Any, camera: Camera) -> None:
    rollout = Rollout(robot, max_steps=60, instruction=CASES[0]["task"][0])
    rest = Rest(camera)
    # The first images may come before the other topics are heard: those get the hold action.
    answers = [rest.show(camera, **_observation(0)) for _ in range(7)]
    wanted = np.array(CASES[0]["actions"][0])
    for answer in answers:
        np.testing.assert_allclose(answer.action, wanted[(answer.step - answers[0].step)], atol=1e-5)
    assert len({tuple(answer.action) for answer in answers}) == 7
    camera.end(answers[-1].rollout_id)
    assert rollout.result().steps >= 7


def test_a_malformed_sequence_is_a_fault_and_holds(robot: Any, camera: Camera) -> None:
    assert not any(CASES[3]["well_formed"])
    rollout = Rollout(robot, max_steps=60, instruction=CASES[3]["task"][0])
    rest = Rest(camera)
    answer = rest.show(camera, **_observation(3), until=lambda answer: answer.fault != 200)
    assert answer.fault == 202
    assert answer.action.tolist() == [0.0] * 7
    camera.end(answer.rollout_id)
    rollout.result()
