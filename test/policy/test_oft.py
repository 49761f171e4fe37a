"""OpenVLA-OFT: agreement with upstream, what its files say, chunks, several cameras, the robot's state."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from released_parts import INSTRUCTION, INSTRUCTIONS, write_oft
from safetensors.torch import load_file, save_file

from vlaforget_ros.errors import ErrorCode, PolicyError
from vlaforget_ros.policy import checkpoint
from vlaforget_ros.policy.inspection import inspect
from vlaforget_ros.policy.oft import OpenVlaOft
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.prompt import build_tokenizer
from vlaforget_ros.policy.reference import verify

REFERENCES = Path(__file__).resolve().parents[1] / "data" / "openvla_oft"


@pytest.fixture
def released(tmp_path: Path) -> Path:
    write_oft(tmp_path / "oft")
    return tmp_path / "oft"


@pytest.fixture
def two_cameras(tmp_path: Path) -> Path:
    """The reference with two cameras and a state, with a tokenizer."""
    shutil.copytree(REFERENCES / "two", tmp_path / "two")
    build_tokenizer(INSTRUCTIONS, 64).save(str(tmp_path / "two" / "tokenizer.json"))
    return tmp_path / "two"


def _options(directory: Path, **values: object) -> None:
    (directory / "vlaforget.yaml").write_text(yaml.safe_dump(values))


def _images(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape, 28, 28, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["one", "two"])
def test_outputs_are_those_of_upstream(name: str) -> None:
    differences = verify(REFERENCES / name)
    assert len(differences) == 8
    assert [str(difference) for difference in differences if not difference.agrees] == []


def test_a_changed_head_no_longer_agrees(tmp_path: Path) -> None:
    shutil.copytree(REFERENCES / "one", tmp_path / "one")
    file = tmp_path / "one" / "action_head--100_checkpoint.safetensors"
    state = load_file(file)
    state["module.model.fc1.bias"] += 0.1
    save_file(state, file)
    wrong = {difference.what for difference in verify(tmp_path / "one") if not difference.agrees}
    assert wrong == {"chunk, -1..1", "actions, robot units"}


def test_one_inference_decides_a_chunk(released: Path) -> None:
    policy = VlaPolicy.load(released)
    assert isinstance(policy.model, OpenVlaOft)
    images = _images(3)
    texts = [INSTRUCTION, "make a coffee now", INSTRUCTION]
    together = policy.act_batch(images, texts)
    for image, text, prediction in zip(images, texts, together, strict=True):
        alone = policy.act(image, text)
        np.testing.assert_allclose(alone.action, prediction.action, atol=1e-5)
        assert policy.codec.steps(alone.action).shape == (3, 7)
        assert alone.fault == 0
        assert len(alone.tokens) == 21
    assert not np.allclose(together[0].action, together[2].action), "another image changes nothing"
    assert not np.allclose(policy.act(images[0], texts[1]).action, together[0].action), "nor do other words"


def test_everything_looks_at_everything_but_padding(released: Path) -> None:
    """The chunk of a frame does not depend on how long the prompts beside it are, and depends on all of its own."""
    policy = VlaPolicy.load(released)
    actions = np.zeros((2, policy.codec.dims), dtype=np.float32)
    texts = [INSTRUCTION, "make a coffee now"]
    batch = policy.encode(_images(2), texts, actions)
    assert len(set((batch.attention_mask.sum(dim=1)).tolist())) == 2, "one of them is padded"
    together = policy.action_logits(batch)
    for row in range(2):
        alone = policy.action_logits(
            policy.encode(_images(2)[row : row + 1], texts[row : row + 1], actions[:1])
        )
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-4, rtol=1e-4)
    model = policy.model
    assert isinstance(model, OpenVlaOft)
    embeds = model.embed(model.look(batch.pixel_values), batch.input_ids)[:1].requires_grad_()
    end = int(batch.attention_mask[0].sum()) + policy.config.image_tokens
    model.chunk(embeds, batch.action_positions[:1])[0, 0].backward()
    assert embeds.grad is not None
    touched = embeds.grad[0].abs().sum(dim=-1) > 0
    assert touched[:end].all(), "a position before the end is not seen"
    assert not touched[end:].any(), "padding is seen"


def test_probabilities_are_highest_at_the_action_and_fall_to_both_sides(released: Path) -> None:
    policy = VlaPolicy.load(released)
    batch = policy.encode(_images(2), [INSTRUCTION] * 2, np.zeros((2, 21), dtype=np.float32))
    log_probs = policy.log_probs(policy.action_logits(batch))
    assert log_probs.shape == (2, 21, 256)
    torch.testing.assert_close(log_probs.logsumexp(-1), torch.zeros(2, 21), atol=1e-5, rtol=0)
    chunk = policy.act_batch(_images(2), [INSTRUCTION] * 2)
    best = log_probs.argmax(dim=-1).numpy()
    tokens = np.array([prediction.tokens for prediction in chunk])
    # Two bins may be about equally near; values beyond -1..1 are in the outermost bin.
    assert np.abs(best - (policy.codec.vocab_end - 1 - tokens)).max() <= 1


def test_several_cameras_and_the_state_reach_the_action(two_cameras: Path) -> None:
    policy = VlaPolicy.load(two_cameras)
    views, state = _images(1, 2)[0], np.full(8, 0.05)
    first = policy.act(views, INSTRUCTION, state).action
    assert policy.codec.steps(first).shape == (8, 7)
    other = views.copy()
    other[1] = 0
    assert not np.allclose(first, policy.act(other, INSTRUCTION, state).action)
    assert not np.allclose(first, policy.act(views[::-1].copy(), INSTRUCTION, state).action)
    assert not np.allclose(first, policy.act(views, INSTRUCTION, state + 0.01).action)


def test_teacher_forcing_sees_every_camera_and_the_state(two_cameras: Path) -> None:
    """The most probable bins of the recorded chunk's places are those of the chunk that the policy decides."""
    policy = VlaPolicy.load(two_cameras)
    views, states = _images(2, 2), np.array([np.full(8, 0.05), np.full(8, -0.1)])
    texts = [INSTRUCTION, "make a coffee now"]
    recorded = np.zeros((2, policy.codec.dims), dtype=np.float32)
    batch = policy.encode(views, texts, recorded, states)
    assert batch.states is not None
    logits = policy.action_logits(batch)
    tokens = np.array([prediction.tokens for prediction in policy.act_batch(views, texts, states)])
    best = policy.log_probs(logits).argmax(dim=-1).numpy()
    assert np.abs(best - (policy.codec.vocab_end - 1 - tokens)).max() <= 1
    for other in (
        policy.encode(views[:, ::-1].copy(), texts, recorded, states),
        policy.encode(views, texts, recorded, states + 0.05),
    ):
        assert not torch.allclose(policy.action_logits(other), logits)


@pytest.mark.parametrize(
    ("image", "state", "code"),
    [
        (np.zeros((28, 28, 3), np.uint8), np.zeros(8), ErrorCode.POLICY_BAD_IMAGE),
        (np.zeros((3, 28, 28, 3), np.uint8), np.zeros(8), ErrorCode.POLICY_BAD_IMAGE),
        (np.zeros((2, 28, 28, 4), np.uint8), np.zeros(8), ErrorCode.POLICY_BAD_IMAGE),
        (np.zeros((2, 28, 28, 3), np.uint8), None, ErrorCode.POLICY_BAD_PARAMETER),
        (np.zeros((2, 28, 28, 3), np.uint8), np.zeros(7), ErrorCode.POLICY_BAD_PARAMETER),
        (np.zeros((2, 28, 28, 3), np.uint8), np.full(8, np.nan), ErrorCode.POLICY_BAD_PARAMETER),
    ],
    ids=["one camera", "three", "four channels", "no state", "short state", "NaN"],
)
def test_what_it_is_shown_must_fit(
    two_cameras: Path, image: np.ndarray, state: np.ndarray | None, code: ErrorCode
) -> None:
    with pytest.raises(PolicyError) as caught:
        VlaPolicy.load(two_cameras).act(image, INSTRUCTION, state)
    assert caught.value.code == code


def test_a_chunk_that_is_not_finite_is_a_fault(released: Path) -> None:
    policy = VlaPolicy.load(released)
    with torch.no_grad():
        policy.model.get_submodule("action_head.fc2").bias[0] = float("nan")  # type: ignore[operator, index]
    prediction = policy.act(_images(1)[0], INSTRUCTION)
    assert prediction.fault == ErrorCode.POLICY_NON_FINITE_ACTION
    assert np.array_equal(prediction.action, policy.hold_action())


def test_sizes_decide_what_no_file_says_and_options_have_the_last_word(two_cameras: Path) -> None:
    found = VlaPolicy.load(two_cameras).config.oft
    assert found is not None
    assert (found.chunk, found.images) == (8, 2), "seven numbers and a state of eight: LIBERO"
    assert found.proprio is not None
    assert found.proprio.low[0] == -0.5
    _options(two_cameras, heads=[3, 4], chunk=5, images=1, bounds="min_max")
    changed = VlaPolicy.load(two_cameras)
    assert changed.config.oft is not None
    assert (changed.config.oft.chunk, changed.config.oft.images) == (5, 1)
    assert changed.normalisation.q01 == (-1.0,) * 7
    assert changed.config.oft.proprio is not None
    assert changed.config.oft.proprio.high == (4.0,) * 8


def test_files_beside_the_weights_belong_to_the_digest(released: Path) -> None:
    before = checkpoint.digest(released)
    (released / "dataset_statistics.json").write_text(
        (released / "dataset_statistics.json").read_text().replace("0.1", "0.2")
    )
    assert checkpoint.digest(released) != before


def _remove(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def _truncated(directory: Path) -> None:
    file = directory / "action_head--100_checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def _lacks_a_layer(directory: Path) -> None:
    file = directory / "action_head--100_checkpoint.safetensors"
    state = load_file(file)
    del state["module.model.layer_norm1.weight"]
    save_file(state, file)


def _flat(directory: Path) -> None:
    file = directory / "action_head--100_checkpoint.safetensors"
    state = load_file(file)
    state["module.model.fc2.weight"] = state["module.model.fc2.weight"].reshape(-1).clone()
    save_file(state, file)


def _nan(directory: Path) -> None:
    file = directory / "action_head--100_checkpoint.safetensors"
    state = load_file(file)
    state["module.model.fc1.bias"][0] = float("nan")
    save_file(state, file)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_remove("vlaforget.yaml"), "chunk: N"),
        (_truncated, "action_head--100_checkpoint.safetensors"),
        (_lacks_a_layer, "action_head.layer_norm1.weight"),
        (_nan, "action_head.fc1.bias"),
        (
            lambda d: shutil.copy(
                d / "action_head--100_checkpoint.safetensors", d / "action_head--200_checkpoint.safetensors"
            ),
            "twice",
        ),
        (
            lambda d: (d / "action_head--100_checkpoint.safetensors").rename(
                d / "action_head--100_checkpoint.pt"
            ),
            "is a pickle",
        ),
        (lambda d: (d / "noisy_action_projector--1_checkpoint.safetensors").touch(), "diffusion"),
        (lambda d: (d / "vision_backbone--1_checkpoint.safetensors").touch(), "FiLM"),
        (lambda d: (d / "dataset_statistics.json").write_text("[1]"), "dataset_statistics.json"),
        (lambda d: (d / "vlaforget.yaml").write_text("chunk: 1000000"), "chunk"),
        (_flat, "action_head.fc2.weight has shape"),
    ],
    ids=[
        *(
            "no chunk",
            "truncated",
            "missing",
            "NaN",
            "two heads",
            "pickle",
            "diffusion",
            "film",
            "statistics",
        ),
        *("long chunk", "flat"),
    ],
)
def test_a_folder_that_cannot_be_served_says_why(
    released: Path, damage: Callable[[Path], None], words: str
) -> None:
    damage(released)
    with pytest.raises(PolicyError) as caught:
        VlaPolicy.load(released)
    assert caught.value.code == ErrorCode.POLICY_BAD_CHECKPOINT
    assert words in str(caught.value)


def test_a_state_without_statistics_is_refused(tmp_path: Path) -> None:
    write_oft(tmp_path, state=8)
    document = json.loads((tmp_path / "dataset_statistics.json").read_text())
    del document["robot"]["proprio"]
    (tmp_path / "dataset_statistics.json").write_text(json.dumps(document))
    with pytest.raises(PolicyError, match="statistics of the state"):
        VlaPolicy.load(tmp_path)


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (float("nan"), 1.0, "finite"),
        (-1.0, float("inf"), "finite"),
        (1.0, -1.0, "-1.0 is the upper bound, 1.0 the lower one"),
    ],
)
def test_bounds_of_the_state_that_are_none_are_refused(
    tmp_path: Path, low: float, high: float, says: str
) -> None:
    write_oft(tmp_path, state=8)
    document = json.loads((tmp_path / "dataset_statistics.json").read_text())
    document["robot"]["proprio"] = {"q01": [low, *[-1.0] * 7], "q99": [high, *[1.0] * 7]}
    (tmp_path / "dataset_statistics.json").write_text(json.dumps(document))
    with pytest.raises(PolicyError, match=says) as caught:
        VlaPolicy.load(tmp_path)
    assert caught.value.code == ErrorCode.POLICY_BAD_CHECKPOINT


def test_inspect_says_what_it_is(released: Path, two_cameras: Path) -> None:
    assert inspect(released)["layout"] == "OpenVLA-OFT"
    found = inspect(two_cameras)
    assert (found["chunk"], found["cameras"], found["state"]) == (8, 2, 8)
    assert found["components"]["head"]["parameters"] > 1000
    assert found["problems"] == []
