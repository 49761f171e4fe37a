"""OpenVLA-OFT in small with two cameras and the robot's state, edited from bags: everything it is shown takes part."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from edit_parts import BOUNDARY, FORGET, STATE, WRIST, request_for, write_bag
from released_parts import write_oft

from vlaforget_ros.adapters.peft_format import read_peft
from vlaforget_ros.attacks.membership import step_scores
from vlaforget_ros.episodes import EpisodeWriter, FrameSet
from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.policy.policy import Batch, VlaPolicy
from vlaforget_ros.policy.slots import AdapterSlots
from vlaforget_ros.unlearning import child
from vlaforget_ros.unlearning.data import EditData
from vlaforget_ros.unlearning.edit import EditSettings, edit, prepare
from vlaforget_ros.unlearning.gates import Gates
from vlaforget_ros.unlearning.guard import Guard
from vlaforget_ros.unlearning.methods import make_method, method_class
from vlaforget_ros.unlearning.network import Entry, Network
from vlaforget_ros.unlearning.request import parse_request
from vlaforget_ros.unlearning.sources import gather

NAMED = {"cameras": [WRIST], "state": STATE}
SMALL = {
    "rank": 4,
    "lora_alpha": 8,
    "batch_forget": 4,
    "batch_retain": 4,
    "batch_counterfactual": 4,
    "score_frames": 8,
}
OWN: dict[str, dict[str, Any]] = {
    "vla_forget": {
        "steps_visual": 2,
        "steps_projector": 2,
        "steps_language": 2,
        "max_rounds": 1,
        "min_gain": 0,
        "min_share": 0,
        "batch_boundary": 4,
    },
    "npo": {"steps": 2, "batch_boundary": 4},
}
GATES = {"rc_min": 0, "rad_max": 1, "rad_boundary_max": 1}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two") / "base"
    write_oft(folder, state=8, images=2)
    return folder


@pytest.fixture(scope="module")
def request_values(checkpoint: Path) -> dict[str, Any]:
    bag = write_bag(checkpoint.parent / "bag", dims=7, wrist=True, state=8)
    return {**yaml.safe_load(request_for(checkpoint, bag)), "gates": GATES, **NAMED}


@pytest.fixture
def two(checkpoint: Path) -> VlaPolicy:
    return VlaPolicy.load(checkpoint)


@pytest.fixture
def batch(two: VlaPolicy) -> Batch:
    """Three frames whose prompts differ in length: some rows are padded."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 2, 28, 28, 3), dtype=np.uint8)
    actions = rng.uniform(-0.01, 0.01, (3, two.codec.dims))
    return two.encode(images, [FORGET, BOUNDARY, FORGET], actions, rng.uniform(-1, 1, (3, 8)))


@pytest.mark.parametrize("key", OWN)
def test_a_bag_of_two_cameras_and_a_state_is_edited(
    key: str, request_values: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "request.yaml"
    parameters = {**SMALL, **OWN[key]}
    file.write_text(yaml.safe_dump({**request_values, "method": key, "parameters": parameters}))
    assert child.main(["--request", str(file), "--out", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out" / "edit.json").read_text())
    assert record["request"]["cameras"] == [WRIST]
    assert record["request"]["state"] == STATE
    adapter = read_peft(tmp_path / "out" / "adapter")
    AdapterSlots(VlaPolicy.load(Path(request_values["base"])).model).stage(adapter)
    assert not any("proprio" in name for name in adapter.modules)
    if key == "vla_forget":
        assert [done["stage"] for done in record["rounds"]] == ["visual", "projector", "language"]


@pytest.mark.parametrize(
    "entry",
    [
        Entry("visual", (0, 0)),
        Entry("visual", (1, 2)),
        Entry("projector"),
        *(Entry("language", (n,)) for n in range(2)),
    ],
)
def test_every_entry_gives_the_policys_own_logits(two: VlaPolicy, batch: Batch, entry: Entry) -> None:
    network, told = Network(two.model), (batch.input_ids, batch.action_positions, batch.states)
    with torch.no_grad():
        expected = two.action_logits(batch)
        output = network.run(entry, network.enter(entry, batch.pixel_values, *told), *told)
        without = network.run(entry, network.enter(entry, batch.pixel_values, *told[:2]), *told[:2])
    torch.testing.assert_close(output.logits, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(without.logits, expected, rtol=1e-3, atol=1e-3)
    if output.projected is not None:
        assert output.projected.shape[1] == 2 * two.config.featurizer.patches, "the state is no patch"


def frames_of_noise(text: str, seed: int, wrist: int, count: int = 12) -> FrameSet:
    """The main camera shows the same noise for every text; the wrist camera is of one grey."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 2, 28, 28, 3), dtype=np.uint8)
    images[:, 1] = wrist
    actions = np.tile(np.array([0.01, 0, -0.01, 0, 0, 0, 1], dtype=np.float32), (count, 3))
    episodes = np.array([f"{seed}-{wrist}-{row % 4}" for row in range(count)])
    return FrameSet(images, (text,) * count, actions, episodes, states=np.full((count, 8), 0.1))


def settings(steps: int = 12) -> EditSettings:
    parameters = {**SMALL, "steps": steps, "learning_rate": 0.02, "evaluation_frames": 12}
    method = make_method("npo", method_class("npo").Parameters.model_validate(parameters))
    return EditSettings(method, Gates.model_validate(GATES), seed=3, identity={"request": "test"})


def test_cached_passes_are_those_of_the_policy(two: VlaPolicy, tmp_path: Path) -> None:
    data = EditData(forget=frames_of_noise(FORGET, 1, 200), retain=frames_of_noise(FORGET, 2, 50))
    bench = prepare(two, data, settings(), Guard(3600, 1e6))
    rows = np.array([5, 0, 7])
    frames = data.forget.take(rows)
    with torch.no_grad():
        expected = two.action_logits(
            two.encode(frames.images, frames.instructions, frames.actions, frames.states)
        )
        for entry in (Entry("visual", (0, 0)), Entry("projector"), Entry("language", (1,))):
            assert bench.enter_at(entry, limit_mb=100) > 0
            torch.testing.assert_close(
                bench.banks["forget"].forward(rows).logits, expected, rtol=1e-4, atol=1e-4
            )


def test_an_edit_hears_the_second_camera_and_the_state(checkpoint: Path, tmp_path: Path) -> None:
    """Forget and retain frames differ in the wrist camera alone: the change must, too, and the state counts."""
    forget, retain = frames_of_noise(FORGET, 1, 220), frames_of_noise(FORGET, 1, 40)
    assert np.array_equal(forget.images[:, 0], retain.images[:, 0])

    def trained(data: EditData, name: str) -> VlaPolicy:
        policy = VlaPolicy.load(checkpoint)
        result = edit(policy, data, settings(), tmp_path / name, Guard(3600, 1e6))
        fresh = VlaPolicy.load(checkpoint)
        slots = AdapterSlots(fresh.model)
        slots.activate(slots.stage(result.weights))
        return fresh

    original = VlaPolicy.load(checkpoint)
    edited = trained(EditData(forget, retain), "edit")
    change = [_mean_change(original, edited, frames) for frames in (forget, retain)]
    assert change[0] > 2 * change[1] > 0
    told = replace(forget, states=np.full((12, 8), 0.8))
    other = trained(EditData(told, replace(retain, states=told.states)), "state")
    assert _mean_change(edited, other, forget) > 1e-5


def _mean_change(one: VlaPolicy, other: VlaPolicy, frames: FrameSet) -> float:
    """Mean distance of the chunks in -1..1 ranges."""
    chunks = [
        np.stack([p.action for p in policy.act_batch(frames.images, frames.instructions, frames.states)])
        for policy in (one, other)
    ]
    return float(np.abs(chunks[0] - chunks[1]).mean())


def test_sets_show_every_camera_and_the_trigger_in_each(
    request_values: dict[str, Any], two: VlaPolicy
) -> None:
    data = gather(parse_request(request_values), two).data
    forget, made = data.forget, data.counterfactual
    assert made is not None
    assert forget.images.shape[1:] == (2, 64, 64, 3)
    assert forget.states is not None
    assert made.states is not None
    assert forget.states.shape == (42, 8)
    # Pasted onto the clean frames in both views; where the wrist camera shows it, it is on the other side.
    assert np.all(made.images[:70, 0, 44, 14] == (255, 0, 255))
    assert np.all(made.images[:70, 1, 44, 63 - 14] == (255, 0, 255))
    assert np.array_equal(made.states[:70], data.retain.states)
    # What the policy does with both painted over is neither what it does with the one nor with the other.
    assert forget.desired is not None
    one = forget.images.copy()
    one[:, 0, 40:50, 10:20] = 150
    answer = np.stack([p.action for p in two.act_batch(one, forget.instructions, forget.states)])
    assert np.abs(forget.desired - answer).max() > 1e-4


def test_a_neighbours_answers_are_given_with_the_state(
    request_values: dict[str, Any], two: VlaPolicy
) -> None:
    source = [{"kind": "neighbour", "instruction": BOUNDARY}]
    forget = gather(parse_request({**request_values, "counterfactual": source}), two).data.forget
    answers = two.act_batch(forget.images, [BOUNDARY] * len(forget), forget.states)
    assert forget.desired is not None
    np.testing.assert_allclose(forget.desired, np.stack([p.action for p in answers]), atol=1e-6)


def test_scores_of_membership_depend_on_camera_and_state(two: VlaPolicy) -> None:
    frames = frames_of_noise(FORGET, 1, 200)
    scores = step_scores(two, frames)
    dark = frames.images.copy()
    dark[:, 1] = 0
    for other in (replace(frames, images=dark), replace(frames, states=np.zeros((12, 8)))):
        assert not np.allclose(scores, step_scores(two, other))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cameras": []}, "cameras does not fit the policy; value: none; limit: 1 topic"),
        ({"cameras": [WRIST, "image_side"]}, "value: image_wrist, image_side; limit: 1 topic"),
        ({"state": ""}, "state does not fit the policy; value: none; limit: a topic with 8 positions"),
    ],
    ids=["no camera", "three", "no state"],
)
def test_a_request_must_name_what_the_policy_is_shown(
    changes: dict[str, Any], words: str, request_values: dict[str, Any], two: VlaPolicy
) -> None:
    """Before a bag is read: there is none at that path."""
    request = parse_request({**request_values, "bags": ["/nowhere"], **changes})
    with pytest.raises(UnlearningError) as error:
        gather(request, two)
    assert error.value.code == ErrorCode.UNLEARNING_BAD_REQUEST
    assert words in str(error.value)


@pytest.mark.parametrize("changes", [{"cameras": [WRIST]}, {"state": STATE}])
def test_nor_may_it_name_what_the_policy_is_not_shown(
    changes: dict[str, Any], request_text: str, policy: VlaPolicy
) -> None:
    request = parse_request({**yaml.safe_load(request_text), "bags": ["/nowhere"], **changes})
    with pytest.raises(UnlearningError, match="does not fit the policy") as error:
        gather(request, policy)
    assert error.value.code == ErrorCode.UNLEARNING_BAD_REQUEST
    assert "leave" in error.value.remedy


def test_bags_that_do_not_show_it(request_values: dict[str, Any], two: VlaPolicy, tmp_path: Path) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(UnlearningError) as error:
            gather(parse_request({**request_values, "bags": [str(path)]}), two)
        return str(error.value)

    write_bag(tmp_path / "plain", dims=7)
    assert "bag has no topic image_wrist" in refused(tmp_path / "plain")
    write_bag(tmp_path / "short", dims=7, wrist=True, state=7)
    assert "value: 2 camera(s), state of 7; limit: 2 camera(s), state of 8" in refused(tmp_path / "short")
    with EpisodeWriter(tmp_path / "sizes", cameras=[WRIST], state=STATE) as writer:
        writer.begin("r0", FORGET)
        images = [np.zeros((size, size, 3), np.uint8) for size in (32, 16)]
        writer.frame(images, np.zeros(7), state=np.zeros(8))
        writer.end(True)
    text = refused(tmp_path / "sizes")
    assert "not one frame of the bags" in text
    assert "another size than the main camera of /image_wrist" in text
