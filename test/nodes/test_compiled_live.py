"""A live policy node with ``compile: true``: it does what uncompiled code does, across a swap and back."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from engine_parts import one_layer, stored_edits
from live_parts import INSTRUCTION, Camera, Rollout, start_policy

from vlaforget_ros.adapters import AdapterStore
from vlaforget_ros.policy import checkpoint
from vlaforget_ros.policy.engine import InferenceEngine
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.prompt import build_tokenizer
from vlaforget_ros.policy.tiny import TEXT_IDS, random_weights

pytestmark = pytest.mark.ros


@pytest.fixture(scope="module")
def policy(graph: Any) -> VlaPolicy:
    tokenizer = build_tokenizer([INSTRUCTION], TEXT_IDS)
    model = random_weights(one_layer(tokenizer), seed=3)
    with torch.no_grad():
        # Some action token then always beats every text token, whatever an adapter does: no faults by chance.
        model.language_model.lm_head.weight[:TEXT_IDS] = 0.0
    checkpoint.save(graph.folder / "base", model, tokenizer)
    return VlaPolicy.load(graph.folder / "base")


@pytest.fixture(scope="module")
def store(graph: Any) -> AdapterStore:
    return AdapterStore(graph.folder / "store")


@pytest.fixture(scope="module")
def edit(policy: VlaPolicy, store: AdapterStore) -> str:
    (digest,) = stored_edits(store, policy.model, policy.base_digest, 1)
    return digest


@pytest.fixture(scope="module")
def robot(graph: Any, client: Any, policy: VlaPolicy, edit: str) -> Any:
    start_policy(graph, graph.folder / "base", compile=True)
    client.wait_until_ready(["policy_node"], 170.0)
    return client


def test_compiled_while_configuring_and_the_same_actions_across_a_swap(
    robot: Any, graph: Any, policy: VlaPolicy, store: AdapterStore, edit: str, camera: Camera
) -> None:
    assert re.search(r"compiled in \d+\.\d s", graph.log("policy"))
    images = [np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8) for seed in range(3)]
    rollout = Rollout(robot, max_steps=60)
    told = []
    with InferenceEngine(policy, store) as plain:
        for adapter in ("base", edit, "base"):
            robot.swap(adapter)
            plain.swap(adapter)
            for image in images:
                answer = camera.show(image=image)
                assert answer.fault == 0
                assert answer.adapter_digest == ("" if adapter == "base" else edit)
                expected = plain.infer(image, INSTRUCTION).prediction.action
                np.testing.assert_allclose(answer.action, expected, atol=1e-6)
                told.append(tuple(answer.action))
    assert told[:3] == told[6:] != told[3:6]
    camera.end(answer.rollout_id)
    assert rollout.result().steps >= 9
