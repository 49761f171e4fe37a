import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vlaforget_ros.errors import ErrorCode, PolicyError
from vlaforget_ros.policy import checkpoint
from vlaforget_ros.policy.images import pixel_values
from vlaforget_ros.policy.inspection import inspect
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.prompt import prompt_ids, prompt_text


def test_one_and_a_batch_agree(policy: VlaPolicy, images: np.ndarray) -> None:
    texts = ["open the faucet", "make a coffee", "open the faucet", "close the window", "make a coffee"]
    together = policy.act_batch(images, texts)
    alone = [policy.act(image, text) for image, text in zip(images, texts, strict=True)]
    assert [p.tokens for p in together] == [p.tokens for p in alone]


def test_image_and_instruction_both_reach_the_logits(policy: VlaPolicy, images: np.ndarray) -> None:
    actions = np.zeros((3, 4), np.float32)
    batch = policy.encode(images[[0, 1, 0]], ["open the faucet"] * 2 + ["close the window"], actions)
    logits = policy.action_logits(batch)
    assert not torch.allclose(logits[0], logits[1]), (
        "another image changes nothing: the vision tower is not called"
    )
    assert not torch.allclose(logits[0], logits[2]), "another instruction changes nothing"


def test_teacher_forcing_gives_the_generated_tokens_back(policy: VlaPolicy, images: np.ndarray) -> None:
    """Positions are right when feeding generated actions makes the model predict the same tokens again."""
    texts = ["open the faucet", "make a coffee", "close the window"]
    # Nothing was learned, so most tokens are text.
    policy = VlaPolicy(policy.model, policy.tokenizer, "", checked_tokens=policy.codec.dims)
    predictions = policy.act_batch(images[:3], texts)
    batch = policy.encode(
        images[:3], ["open the faucet", "make a coffee", "close the window"], np.zeros((3, 4))
    )
    tokens = torch.tensor([p.tokens for p in predictions])
    ids = batch.input_ids.clone()
    first_action = batch.action_positions - policy.config.featurizer.patches + 1
    ids.scatter_(1, first_action, tokens)
    logits = policy.model(batch.pixel_values, ids, batch.attention_mask)
    predicted = logits.gather(1, batch.action_positions[..., None].expand(-1, -1, logits.shape[-1])).argmax(
        -1
    )
    assert torch.equal(predicted, tokens)


def test_a_text_token_becomes_a_fault_and_the_hold_action(policy: VlaPolicy, images: np.ndarray) -> None:
    with torch.no_grad():
        # Every logit but that of a text token sinks: the model now answers with words.
        head = policy.model.language_model.lm_head.weight
        head.zero_()
        head[5] = 1.0
        policy.model.language_model.model.norm.weight.fill_(1.0)
        head[5] = policy.model.language_model.model.norm.weight
    prediction = policy.act(images[0], "open the faucet")
    assert prediction.tokens[0] == 5
    assert prediction.fault == ErrorCode.POLICY_NOT_AN_ACTION_TOKEN
    assert np.array_equal(prediction.action, policy.hold_action())


@pytest.mark.parametrize("instruction", ["", "   ", "open the fridge"])
def test_unknown_instructions_are_named(policy: VlaPolicy, images: np.ndarray, instruction: str) -> None:
    with pytest.raises(PolicyError) as caught:
        policy.act(images[0], instruction)
    assert caught.value.code == ErrorCode.POLICY_UNKNOWN_INSTRUCTION
    if instruction.strip():
        assert "fridge" in str(caught.value)


@pytest.mark.parametrize("image", [np.zeros((64, 64), np.uint8), np.zeros((64, 64, 3), np.float32)])
def test_bad_images_are_refused(policy: VlaPolicy, image: np.ndarray) -> None:
    with pytest.raises(PolicyError) as caught:
        policy.act(image, "open the faucet")
    assert caught.value.code == ErrorCode.POLICY_BAD_IMAGE


def test_prompt_is_upstreams() -> None:
    assert (
        prompt_text("Open The  Faucet") == "In: What action should the robot take to open the faucet?\nOut:"
    )


def test_prompt_suffix_is_added_once(policy: VlaPolicy) -> None:
    plain = prompt_ids(policy.tokenizer, "open the faucet")
    assert prompt_ids(policy.tokenizer, "open the faucet", suffix_id=3)[-1] == 3
    assert prompt_ids(policy.tokenizer, "open the faucet", suffix_id=plain[-1]) == plain
    assert plain[0] == policy.tokenizer.token_to_id("<s>")


def test_images_are_normalised_per_tower(policy: VlaPolicy) -> None:
    pixels = pixel_values(np.full((1, 64, 64, 3), 255, np.uint8), policy.config)
    assert pixels.shape == (1, 3, 64, 64)
    assert torch.allclose(pixels, torch.ones(1))


def test_components_are_linear_layers_in_network_order(policy: VlaPolicy) -> None:
    components = policy.components()
    assert list(components) == ["visual", "projector", "language"]
    modules = dict(policy.model.named_modules())
    for layers in components.values():
        for layer in layers:
            assert all(isinstance(modules[name], torch.nn.Linear) for name in layer.modules)
    assert components["language"][0].modules[0] == "language_model.model.layers.0.self_attn.q_proj"
    assert components["visual"][0].modules[0] == "vision_backbone.featurizer.blocks.0.attn.qkv"


def test_checkpoint_round_trip_keeps_the_digest(checkpoint_dir: Path, tmp_path: Path) -> None:
    model, tokenizer = checkpoint.load(checkpoint_dir)
    assert checkpoint.save(tmp_path / "copy", model, tokenizer) == checkpoint.digest(checkpoint_dir)


@pytest.mark.parametrize("damage", ["missing", "truncated", "other_shape", "nan", "extra_key", "config"])
def test_a_damaged_checkpoint_is_named(checkpoint_dir: Path, tmp_path: Path, damage: str) -> None:
    from safetensors.torch import load_file, save_file

    model, tokenizer = checkpoint.load(checkpoint_dir)
    checkpoint.save(tmp_path, model, tokenizer)
    weights = tmp_path / "model.safetensors"
    tensors = load_file(weights)
    name = "projector.fc1.weight"
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "config":
        (tmp_path / "config.json").write_text('{"model_type": "openvla"}')
    else:
        tensors = {
            "other_shape": {**tensors, name: tensors[name][:3]},
            "nan": {**tensors, name: tensors[name] * float("nan")},
            "extra_key": {**tensors, "projector.fc9.weight": tensors[name].clone()},
        }[damage]
        save_file({k: v.contiguous() for k, v in tensors.items()}, weights)
    with pytest.raises(PolicyError) as caught:
        VlaPolicy.load(tmp_path)
    assert caught.value.code == ErrorCode.POLICY_BAD_CHECKPOINT


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ('{"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava"}', "Llava.*, llava"),
        ('{"type": "smolvla"}', "another architecture: smolvla"),
        ("{}", "nothing that says of which"),
        ("[1]", "no object but list"),
        ("{", "config.json"),
    ],
)
def test_a_network_of_another_kind_is_called_that(
    checkpoint_dir: Path, tmp_path: Path, config: str, says: str
) -> None:
    checkpoint.save(tmp_path, *checkpoint.load(checkpoint_dir))
    (tmp_path / "config.json").write_text(config)
    for read in (VlaPolicy.load, inspect):
        with pytest.raises(PolicyError, match=says) as caught:
            read(tmp_path)
        assert caught.value.code == ErrorCode.POLICY_BAD_CHECKPOINT
        assert caught.value.remedy


@pytest.mark.parametrize(
    "language",
    [{}, {"vocab_size": 10}, {"hidden_size": 10**7}, {"pad_token_id": None}, {"rms_norm_eps": "x"}],
)
def test_sizes_that_no_network_has_are_refused(
    checkpoint_dir: Path, tmp_path: Path, language: dict[str, object]
) -> None:
    checkpoint.save(tmp_path, *checkpoint.load(checkpoint_dir))
    path = tmp_path / "config.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({**saved, "language": {**saved["language"], **language} if language else {}}))
    with pytest.raises(PolicyError) as caught:
        VlaPolicy.load(tmp_path)
    assert caught.value.code == ErrorCode.POLICY_BAD_CHECKPOINT
