"""Checkpoints in OpenVLA's released layout: loaded strictly, equal to another implementation, refused with a reason."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from released_parts import ACTION, INSTRUCTION, TEXT, write_reference, write_released
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from vlaforget_ros.adapters.peft_format import read_peft
from vlaforget_ros.cli.app import app
from vlaforget_ros.errors import AdapterError, ErrorCode, PolicyError
from vlaforget_ros.policy import checkpoint
from vlaforget_ros.policy.differences import features_limit
from vlaforget_ros.policy.inspection import inspect
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.reference import verify
from vlaforget_ros.policy.released import load_network
from vlaforget_ros.policy.slots import AdapterSlots

FIRST, SECOND = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "openvla_tiny_reference"
PROMPT = [1, 5, 6, 7, 29871]


@pytest.fixture
def released(tmp_path: Path) -> Path:
    directory = tmp_path / "released"
    write_reference(directory, write_released(directory), PROMPT)
    return directory


def test_outputs_equal_those_of_another_implementation(released: Path) -> None:
    # The reference of the upstream code itself lies beside the project on some machines.
    for directory in [released, *([SHARED] if SHARED.is_dir() else [])]:
        found = verify(directory)
        assert [str(difference) for difference in found if not difference.agrees] == []
        assert {difference.what for difference in found} >= {
            "projector features",
            "greedy tokens that differ",
        }


def test_a_changed_weight_and_other_heads_are_noticed(released: Path) -> None:
    assert not all(difference.agrees for difference in verify(released, heads=(4, 3)))
    tensors = load_file(released / FIRST)
    name = next(name for name in tensors if name.endswith("mlp.fc1.weight") and "blocks.0" in name)
    save_file({**tensors, name: tensors[name] * 1.01}, released / FIRST)
    result = CliRunner().invoke(app, ["verify-reference", str(released), "--json"])
    assert result.exit_code == 1
    assert json.loads(result.output)["agrees"] is False


def test_it_acts_as_a_policy_on_what_it_sees(released: Path) -> None:
    policy = VlaPolicy.load(released)
    assert policy.codec.dims == 7
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 60, 3), dtype=np.uint8)
    one, other = policy.act_batch(images, [INSTRUCTION] * 2)
    assert one.fault == other.fault == 0
    assert not np.array_equal(one.action, other.action)
    bounds = np.array(ACTION["q99"])
    assert (np.abs(one.action[:6]) <= bounds[:6]).all()
    names = [layer.name for layer in policy.components()["visual"]]
    assert names[-1] == "vision_backbone.fused_featurizer.blocks.1", "the last block is not used"
    half, tokenizer = checkpoint.load(released, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert VlaPolicy(half, tokenizer, "").act(images[0], INSTRUCTION).action.shape == (7,)


def test_the_digest_covers_every_file_that_decides(released: Path) -> None:
    before = checkpoint.digest(released)
    for name in ("config.json", "tokenizer.json", SECOND, "model.safetensors.index.json"):
        content = (released / name).read_bytes()
        (released / name).write_bytes(content + b" " if name.endswith("json") else content[:-1] + b"\1")
        assert checkpoint.digest(released) != before
        (released / name).write_bytes(content)
    (released / "reference.json").unlink()
    assert checkpoint.digest(released) == before


def test_one_file_without_an_index_is_a_checkpoint_too(released: Path) -> None:
    save_file({**load_file(released / FIRST), **load_file(released / SECOND)}, released / "model.safetensors")
    for name in (FIRST, SECOND, "model.safetensors.index.json"):
        (released / name).unlink()
    assert all(difference.agrees for difference in verify(released))


def test_inspect_says_what_it_is_without_reading_weights(released: Path) -> None:
    found = inspect(released)
    assert found["layout"] == "OpenVLA as released"
    assert found["action_tokens"] == [31744, 31999]
    assert found["data_sets"] == {"robot": 7}
    towers = found["components"]["visual"]["towers"]
    assert [(tower["blocks"], tower["used"], tower["width"], tower["heads"]) for tower in towers] == [
        (3, 2, 32, 2),
        (3, 2, 48, 3),
    ]
    assert found["parameters"] == sum(p.numel() for p in load_network(released).parameters()) + 48 * 48
    assert found["problems"] == []
    (released / "tokenizer.json").unlink()
    result = CliRunner().invoke(app, ["inspect", str(released)])
    assert result.exit_code == 1
    assert "tokenizer.json is missing" in result.output
    assert CliRunner().invoke(app, ["inspect", "tiny"]).exit_code == 0


def test_a_lora_folder_of_upstreams_kind_acts_as_peft_applies_it(released: Path, tmp_path: Path) -> None:
    """All linear layers but the LM head, gaussian start, alpha half the rank; the pooling head has no effect."""
    tuned = load_network(released)
    targets = [
        name
        for name, layer in tuned.named_modules()
        if isinstance(layer, torch.nn.Linear) and not name.endswith("lm_head")
    ]
    config = LoraConfig(r=4, lora_alpha=2, target_modules=targets, init_lora_weights="gaussian")
    wrapped = get_peft_model(tuned, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    wrapped.save_pretrained(tmp_path / "lora", save_embedding_layers=False)
    file = tmp_path / "lora" / "adapter_model.safetensors"
    pooled = "base_model.model.vision_backbone.fused_featurizer.attn_pool.q.lora_"
    extra = {f"{pooled}A.weight": torch.zeros(4, 48), f"{pooled}B.weight": torch.zeros(48, 4)}
    save_file({**load_file(file), **extra}, file)

    policy = VlaPolicy.load(released)
    slots = AdapterSlots(policy.model)
    slots.activate(slots.stage(read_peft(tmp_path / "lora")))
    ids, pixels = torch.tensor([PROMPT]), torch.randn(1, 6, 28, 28)
    with torch.inference_mode():
        torch.testing.assert_close(policy.model(pixels, ids), wrapped(pixels, ids), atol=1e-5, rtol=1e-5)
        assert (policy.model(pixels, ids) - load_network(released)(pixels, ids)).abs().max() > 0.1

    save_file(extra, file)
    with pytest.raises(AdapterError, match="no layer that has an effect"):
        read_peft(tmp_path / "lora")


def test_options_beside_the_weights_belong_to_the_checkpoint(released: Path) -> None:
    plain, before = VlaPolicy.load(released), checkpoint.digest(released)
    _config(norm_stats={"robot": {"action": ACTION}, "other": {"action": ACTION}})(released)
    assert inspect(released)["problems"] == [
        "vlaforget.yaml must name the data set (unnorm_key): there are 2"
    ]
    with pytest.raises(PolicyError, match="unnorm_key"):
        VlaPolicy.load(released)
    options = "{unnorm_key: other, centre_crop: 0.9, gripper: libero, hold_gripper: 1, dtype: bfloat16, heads: [2, 3]}"
    (released / "vlaforget.yaml").write_text(options)
    policy = VlaPolicy.load(released)
    assert policy.base_digest not in (before, plain.base_digest)
    assert inspect(released)["problems"] == []
    assert next(policy.model.parameters()).dtype == torch.bfloat16
    assert policy.hold_action().tolist() == [0.0] * 6 + [1.0]
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    assert policy.act(image, INSTRUCTION).action[-1] in (-1.0, 0.0, 1.0)
    assert policy.encode(image[None], [INSTRUCTION], np.zeros((1, 7))).pixel_values.shape == (1, 6, 28, 28)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("centre_crops: 0.9", "did you mean centre_crop"),
        ("centre_crop: 0", "centre_crop: Input should be greater than 0"),
        ("[", "vlaforget.yaml"),
        ("unnorm_key: robots", "did you mean robot"),
        ("heads: [2]", "1 numbers of heads for 2 vision towers"),
    ],
)
def test_bad_options_are_refused(released: Path, text: str, says: str) -> None:
    (released / "vlaforget.yaml").write_text(text)
    with pytest.raises(PolicyError, match=re.escape(says)):
        VlaPolicy.load(released)


def _config(**changes: Any) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = directory / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def _tensors(changed: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    """Change the first file and make the index say the same."""

    def change(directory: Path) -> None:
        save_file(changed(load_file(directory / FIRST)), directory / FIRST)
        places = {name: file for file in (FIRST, SECOND) for name in load_file(directory / file)}
        (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))

    return change


def _truncate(directory: Path) -> None:
    (directory / SECOND).write_bytes((directory / SECOND).read_bytes()[:-1000])


def _degenerate(directory: Path) -> None:
    _config(norm_stats={"robot": {"action": {**ACTION, "q99": ACTION["q01"]}}})(directory)


def _words(changed: Callable[[dict[str, int]], dict[str, int]]) -> Callable[[Path], None]:
    """Change what the tokenizer knows."""

    def change(directory: Path) -> None:
        saved = json.loads((directory / "tokenizer.json").read_text())
        saved["model"]["vocab"] = changed(saved["model"]["vocab"])
        (directory / "tokenizer.json").write_text(json.dumps(saved))

    return change


FC1 = "projector.fc1.weight"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_truncate, rf"{SECOND} is damaged or truncated"),
        (lambda d: (d / SECOND).unlink(), f"missing file.*{SECOND}"),
        (lambda d: (d / "model.safetensors.index.json").write_text("[]"), "is no index"),
        (lambda d: (d / "model.safetensors.index.json").write_text('{"weight_map": {}}'), "missing|disagrees|lacks"),
        (_tensors(lambda t: {n: v for n, v in t.items() if n != FC1}), f"missing keys: {FC1}"),
        (_tensors(lambda t: {**t, "extra.weight": torch.zeros(1)}), "unexpected keys: extra.weight"),
        (_tensors(lambda t: {**t, FC1: t[FC1][:-1].contiguous()}), f"{FC1} has shape"),
        (_tensors(lambda t: {**t, FC1: t[FC1] * float("nan")}), f"{FC1}.*non-finite"),
        (_config(norm_stats=None), "no usable norm_stats"),
        (_degenerate, "norm_stats.*q99"),
        (_config(image_resize_strategy="letterbox"), "letterbox"),
        (_config(text_config={"model_type": "phi", "vocab_size": 32064}), "phi"),
        (_config(image_sizes=[30, 30]), "no multiple"),
        (_config(text_config={}), "text_config.vocab_size"),
        (_config(architectures=["LlavaForConditionalGeneration"]), "another architecture: Llava"),
        (_config(model_type="prismatic"), r"another architecture: .*\(prismatic\)"),
        (_config(llm_backbone_id="vicuna-v15-7b"), "vicuna-v15-7b: prompts of another form"),
        (_config(timm_model_ids=[]), "timm_model_ids"),
        (_config(image_sizes=[28]), "1 image_sizes for 2 vision towers"),
        (_config(n_action_bins=-1), "bins"),
        (_config(n_action_bins=40_000), "40000 action tokens"),
        (_config(pad_to_multiple_of=32_000), "256 action tokens, ids -192..63: .* 32064 words"),
        (_config(pad_token_id=32_064), "pad_token_id 32064 is none of 32064 words"),
        (_tensors(lambda t: {**t, FC1: t[FC1].to(torch.int8)}), f"{FC1} is of type I8"),
        (lambda d: (d / "tokenizer.json").unlink(), "missing file.*tokenizer.json"),
        (lambda d: (d / "tokenizer.json").write_text("{}"), "tokenizer.json"),
        (_words(lambda v: {w: i for w, i in v.items() if w != "<s>"}), "lacks a special token.*<s>"),
        (_words(lambda v: {**v, "door": 40_000}), r"1 ids lie beyond the \d+ words .* door \(40000\)"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_with_the_reason(
    released: Path, damage: Callable[[Path], None], says: str
) -> None:
    damage(released)
    with pytest.raises(PolicyError) as caught:
        VlaPolicy.load(released)
    assert caught.value.code == ErrorCode.POLICY_BAD_CHECKPOINT
    assert re.search(says, str(caught.value)), str(caught.value)
    assert caught.value.remedy


SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)


# None is a default of num_key_value_heads: as many as there are heads.
@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name in SIZES
        for value in (None, -1, 0, 1, 10**7, "x", [], 1.5)
        if (name, value) != ("num_key_value_heads", None)
    ],
)
def test_sizes_that_no_network_has_are_refused_by_inspect_as_well(
    released: Path, name: str, value: Any
) -> None:
    _config(text_config={**TEXT, name: value})(released)
    with pytest.raises(PolicyError) as caught:
        VlaPolicy.load(released)
    assert caught.value.code == ErrorCode.POLICY_BAD_CHECKPOINT
    assert caught.value.remedy
    assert CliRunner().invoke(app, ["inspect", str(released)]).exit_code == 1


@pytest.mark.parametrize("name", ["reference.json", "reference.safetensors"])
def test_a_folder_without_a_reference_says_so(released: Path, name: str) -> None:
    (released / name).write_text("{}")
    with pytest.raises(PolicyError, match="no reference"):
        verify(released)


def test_a_reference_for_another_data_set_says_so(released: Path) -> None:
    document = json.loads((released / "reference.json").read_text())
    (released / "reference.json").write_text(json.dumps({**document, "unnorm_key": "other"}))
    with pytest.raises(PolicyError, match="unnorm_key other"):
        verify(released)


def test_features_are_compared_by_their_size() -> None:
    assert features_limit(torch.tensor([0.5, -2.0])) == 1e-5
    assert features_limit(torch.tensor([0.5, -60.0])) == pytest.approx(6e-5)
