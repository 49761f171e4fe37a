"""pi0-FAST's network against the library's PaliGemma, and the checkpoint layout of lerobot."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

from vlaforget_ros.adapters.lerobot_names import checkpoint_name, network_name
from vlaforget_ros.adapters.peft_format import read_peft
from vlaforget_ros.bench.random_pi0 import Robot, write
from vlaforget_ros.bench.swap import random_adapter
from vlaforget_ros.errors import ErrorCode, PolicyError
from vlaforget_ros.policy import checkpoint
from vlaforget_ros.policy.inspection import inspect
from vlaforget_ros.policy.pi0 import Pi0Fast
from vlaforget_ros.policy.pi0_checkpoint import read_config
from vlaforget_ros.policy.pi0_configs import pi0_fast_config
from vlaforget_ros.policy.pi0_files import FAST_SETTINGS, FAST_TOKENIZER, POSTPROCESSOR
from vlaforget_ros.policy.policy import Batch, VlaPolicy
from vlaforget_ros.policy.reference import verify
from vlaforget_ros.policy.shards import Shards
from vlaforget_ros.policy.slots import AdapterSlots

REFERENCES = Path(__file__).resolve().parents[1] / "data" / "pi0_fast"
TASK = "pick up the red block"
ROBOT = Robot(cameras=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("pi0") / "base"
    write(made, (TASK, "open the drawer"), ROBOT)
    return made


@pytest.fixture(scope="module")
def policy(folder: Path) -> VlaPolicy:
    return VlaPolicy.load(folder)


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copied"))


def _observations(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, ROBOT.cameras, 48, 64, 3), dtype=np.uint8)
    times = np.linspace(0.0, 1.0, ROBOT.chunk)[None, :, None]
    sizes = rng.uniform(-0.4, 0.4, (count, 1, ROBOT.dims))
    actions = (sizes * np.sin(3.0 * times)).reshape(count, -1)
    return images, rng.uniform(-1, 1, (count, ROBOT.state)), actions


def _batch(policy: VlaPolicy, count: int = 3) -> Batch:
    images, states, actions = _observations(count)
    return policy.encode(images, [TASK] * count, actions, states)


@pytest.mark.parametrize("name", ["one", "two"])
def test_outputs_are_those_of_lerobot(name: str) -> None:
    differences = verify(REFERENCES / name)
    assert len(differences) == 36
    assert [str(difference) for difference in differences if not difference.agrees] == []


def test_another_border_no_longer_agrees(tmp_path: Path) -> None:
    changed = Path(shutil.copytree(REFERENCES / "two", tmp_path / "two"))
    options = yaml.safe_load((changed / "vlaforget.yaml").read_text())
    (changed / "vlaforget.yaml").write_text(yaml.safe_dump({**options, "border": -3.0, "state_slots": 32}))
    wrong = {difference.what for difference in verify(changed) if not difference.agrees}
    assert {"prompts that differ", "pixels, -1..1", "logits at the end of the prompt"} <= wrong
    assert "recorded chunks with other tokens" not in wrong


def test_only_whole_sequences_are_actions() -> None:
    """Eighteen sequences made by hand: what lerobot makes of them, zeros and halves among it, is in the file."""
    policy = VlaPolicy.load(REFERENCES / "two")
    document = json.loads((REFERENCES / "two" / "reference.json").read_text())
    whole = {"well-formed", "padded after the end marker"}
    silent = 0
    assert len(document["detokenize"]) == 18
    for sequence in document["detokenize"]:
        tokens = np.array(sequence["tokens"])
        if sequence["name"] in whole:
            expected = policy.codec.robot_units(np.array(sequence["normalised"]).reshape(-1))
            np.testing.assert_allclose(policy.codec.decode(tokens), expected, atol=1e-6)
            continue
        silent += "normalised" in sequence
        with pytest.raises(PolicyError) as caught:
            policy.codec.decode(tokens)
        assert caught.value.code == ErrorCode.POLICY_NOT_AN_ACTION_TOKEN
    assert silent == 13


def _library(model: Pi0Fast) -> PaliGemmaForConditionalGeneration:
    tower, language = model.config.featurizer, model.config.language
    config = PaliGemmaConfig(
        text_config={**language, "model_type": "gemma"},
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": tower.dim,
            "intermediate_size": tower.mlp_dim,
            "num_hidden_layers": tower.depth,
            "num_attention_heads": tower.heads,
            "image_size": tower.image_size,
            "patch_size": tower.patch_size,
            "vision_use_head": False,
            "projection_dim": language["hidden_size"],
        },
        image_token_id=language["vocab_size"],
        projection_dim=language["hidden_size"],
    )
    made = PaliGemmaForConditionalGeneration(config).eval()
    names = {name.replace("vision_model.", "") for name in made.state_dict()}
    weights = {}
    for name, tensor in model.state_dict().items():
        theirs = checkpoint_name(name).removeprefix("model.paligemma_with_expert.paligemma.")
        weights[theirs if theirs in names else theirs.replace("vision_model.", "")] = tensor
    made.load_state_dict(weights)
    return made


@torch.inference_mode()
def test_the_library_s_paligemma_gives_the_same_logits(policy: VlaPolicy) -> None:
    """Images as they are, words scaled once, image and prompt in both directions, action tokens one after the other."""
    model = policy.model
    batch = _batch(policy, 1)
    count = model.config.image_tokens
    vocabulary = model.config.language["vocab_size"]
    ids = torch.cat([torch.full((1, count), vocabulary), batch.input_ids], dim=1)
    prompt = int(batch.action_positions[0, 0]) + 1
    kinds = (torch.arange(ids.shape[1]) >= prompt).long()[None]
    expected = _library(model)(
        input_ids=ids,
        pixel_values=batch.pixel_values.unflatten(1, (ROBOT.cameras, 3)).flatten(0, 1),
        attention_mask=torch.ones_like(ids),
        token_type_ids=kinds,
    ).logits
    own = policy.action_logits(batch)
    rows = batch.action_positions[..., None].expand(-1, -1, vocabulary)
    assert torch.allclose(own, expected.gather(1, rows), atol=1e-4)
    assert own.std() > 0.1


@torch.inference_mode()
def test_words_are_scaled_once_and_images_never(policy: VlaPolicy) -> None:
    model = policy.model
    table = model.get_parameter("language_model.model.embed_tokens.weight")
    projected = model.look(_batch(policy).pixel_values)
    embeds = model.embed(projected, torch.tensor([[7, 11]]).expand(3, -1))
    assert torch.equal(embeds[:, : projected.shape[1]], projected)
    assert torch.allclose(embeds[0, -2], table[7] * table.shape[1] ** 0.5)


@torch.inference_mode()
def test_decoding_gives_what_recomputing_everything_gives(policy: VlaPolicy) -> None:
    images, states, _ = _observations(2)
    model, codec = policy.model, policy.codec
    allowed = [*codec.tokens, *codec.words]
    for image, state in zip(images, states, strict=True):
        own = policy.act(image, TASK, state).tokens
        batch = policy.encode(image[None], [TASK], np.zeros((1, codec.dims)), state[None])
        start = int(batch.action_positions[0, 0]) + 1 - model.config.image_tokens
        ids = batch.input_ids[:, :start]
        projected = model.look(batch.pixel_values)
        first = torch.tensor([[start + model.config.image_tokens - 1]])
        for place, token in enumerate(own[:12]):
            positions = torch.cat([first, first + place], dim=1)
            logits = model.teacher(projected, ids, positions)[0, 1]
            best = int(logits.argmax()) if place == 0 else allowed[int(logits[allowed].argmax())]
            assert best == token
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)


def test_observations_with_prompts_of_different_length_share_a_pass() -> None:
    policy = VlaPolicy.load(REFERENCES / "two")
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (4, 2, 40, 30, 3), dtype=np.uint8)
    states = rng.uniform(-1, 1, (4, 8))
    tasks = ["pick", "pick up the red block", "put the blue bowl on the plate", "pick up"]
    together = policy.act_batch(images, tasks, states)
    alone = [policy.act(*observation) for observation in zip(images, tasks, states, strict=True)]
    assert len({len(policy._form.prompt(t, s)) for t, s in zip(tasks, states, strict=True)}) > 2
    assert [answer.tokens for answer in together] == [answer.tokens for answer in alone]
    assert len({answer.tokens for answer in alone}) > 1


@torch.inference_mode()
def test_features_of_each_camera_and_the_state_change_the_answer(policy: VlaPolicy) -> None:
    images, states, actions = _observations(1)
    whole = policy.action_logits(policy.encode(images, [TASK], actions, states))
    other = images.copy()
    other[:, 1] = 255 - other[:, 1]
    assert not torch.allclose(policy.action_logits(policy.encode(other, [TASK], actions, states)), whole)
    assert not torch.allclose(policy.action_logits(policy.encode(images, [TASK], actions, -states)), whole)


def test_our_layout_gives_the_same_policy(policy: VlaPolicy, tmp_path: Path) -> None:
    checkpoint.save(tmp_path, policy.model, policy.tokenizer)
    again = VlaPolicy.load(tmp_path)
    images, states, actions = _observations(2)
    own, other = (
        each.action_logits(each.encode(images, [TASK] * 2, actions, states)) for each in (policy, again)
    )
    assert torch.equal(own, other)
    assert "language_model.lm_head.weight" not in load_file(tmp_path / "model.safetensors")


def test_the_table_may_be_stored_under_either_name_or_both(copied: Path, policy: VlaPolicy) -> None:
    weights = load_file(copied / "model.safetensors")
    root = "model.paligemma_with_expert.paligemma."
    table = weights.pop(f"{root}model.language_model.embed_tokens.weight")
    save_file({**weights, f"{root}lm_head.weight": table}, copied / "model.safetensors")
    head_only = VlaPolicy.load(copied)
    assert torch.equal(head_only.model.language_model.lm_head.weight, table)
    assert torch.equal(head_only.model.words(torch.tensor([5])), policy.model.words(torch.tensor([5])))
    both = {
        **weights,
        f"{root}lm_head.weight": table + 1,
        f"{root}model.language_model.embed_tokens.weight": table,
    }
    save_file(both, copied / "model.safetensors")
    untied = VlaPolicy.load(copied)
    assert torch.equal(untied.model.language_model.lm_head.weight, table + 1)
    assert torch.equal(untied.model.words(torch.tensor([5])), policy.model.words(torch.tensor([5])))
    checkpoint.save(copied / "own", untied.model, untied.tokenizer)
    again = VlaPolicy.load(copied / "own")
    assert torch.equal(again.model.language_model.lm_head.weight, table + 1)


def test_names_of_newer_and_older_libraries_are_read(copied: Path, policy: VlaPolicy) -> None:
    weights = load_file(copied / "model.safetensors")
    renamed = {
        name.replace("vision_model.", "").removeprefix("model."): value for name, value in weights.items()
    }
    save_file(renamed, copied / "model.safetensors")
    other = VlaPolicy.load(copied)
    images, states, actions = _observations(1)
    own, same = (each.action_logits(each.encode(images, [TASK], actions, states)) for each in (policy, other))
    assert torch.equal(own, same)


def _refused(directory: Path, words: str) -> None:
    with pytest.raises(PolicyError, match=words) as caught:
        VlaPolicy.load(directory)
    assert caught.value.code == ErrorCode.POLICY_BAD_CHECKPOINT


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"use_relative_actions": True}, "use_relative_actions"),
        ({"image_resolution": [56, 42]}, "no square"),
        ({"normalization_mapping": {"STATE": "IDENTITY"}}, "IDENTITY of observation.state"),
        ({"normalization_mapping": {"STATE": "MIN_MAX"}}, "no MIN_MAX statistics of observation.state"),
        ({"normalization_mapping": None}, "normalization_mapping"),
        ({"output_features": {"action": {"type": "ACTION", "shape": [6]}}}, "action with 6 numbers"),
        ({"output_features": {}}, "lacks action"),
        ({"output_features": {"action": {"type": "ACTION", "shape": []}}}, "output_features.action.shape"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"chunk_size": 10**7}, "chunk"),
        ({"max_decoding_steps": 10**7}, "action_tokens"),
        ({"fast_skip_tokens": -1}, "fast_skip_tokens"),
        ({"fast_skip_tokens": 10**7}, "action tokens, ids -"),
        ({"image_resolution": [42, 42]}, "position_embedding.weight has shape"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    copied: Path, changes: dict[str, object], words: str
) -> None:
    path = copied / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    _refused(copied, words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"norm_map": {"ACTION": "MEAN_STD"}}, "normalises ACTION by MEAN_STD, config.json says QUANTILES"),
        ({"enabled": True}, "absolute_actions_processor is enabled"),
        ([1], "policy_postprocessor.json: steps"),
    ],
)
def test_processors_that_do_something_else_are_refused(copied: Path, changes: object, words: str) -> None:
    """lerobot runs the processors; config.json is what it was trained with."""
    path = copied / POSTPROCESSOR
    document = json.loads(path.read_text())
    document["steps"].append({"registry_name": "absolute_actions_processor", "config": changes})
    path.write_text(json.dumps(document))
    _refused(copied, words)


@pytest.mark.parametrize("text", ["[]", '{"scale": 0}', '{"min_token": 10000000}', "{"])
def test_settings_of_fast_that_are_none_are_refused(copied: Path, text: str) -> None:
    (copied / FAST_SETTINGS).write_text(text)
    with pytest.raises(PolicyError) as caught:
        VlaPolicy.load(copied)
    assert caught.value.code == ErrorCode.POLICY_BAD_CHECKPOINT


@pytest.mark.parametrize("part", ["language_model.layers.17.", "encoder.layers.26."])
def test_a_network_of_the_release_without_its_last_block_is_not_taken_for_a_smaller_one(
    copied: Path, policy: VlaPolicy, part: str
) -> None:
    assert policy.config.fast is not None
    with torch.device("meta"):
        network = Pi0Fast(pi0_fast_config(policy.normalisation, policy.config.fast, 2048))
    shapes = {checkpoint_name(name): tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    whole = Shards(copied, (), shapes, {}, 0)
    assert read_config(copied, whole, policy.tokenizer).language["num_hidden_layers"] == 18
    left = {name: shape for name, shape in shapes.items() if part not in name}
    assert len(left) < len(shapes)
    with pytest.raises(PolicyError, match=r"missing keys: \d+ of \d+ blocks"):
        read_config(copied, Shards(copied, (), left, {}, 0), policy.tokenizer)


def test_what_lerobot_fetches_by_name_must_be_there(copied: Path) -> None:
    (copied / FAST_TOKENIZER).unlink()
    _refused(copied, "fast_tokenizer/tokenizer.json")


def test_a_broken_fast_tokenizer_is_named(copied: Path) -> None:
    (copied / FAST_TOKENIZER).write_text("{}")
    _refused(copied, "fast_tokenizer/tokenizer.json: Model missing")


def test_missing_statistics_are_named(copied: Path) -> None:
    (copied / POSTPROCESSOR).write_text(json.dumps({"name": "x", "steps": []}))
    _refused(copied, "policy_postprocessor.json has no QUANTILES statistics of action")


def test_missing_and_unexpected_weights_are_listed(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    gone = next(name for name in weights if "multi_modal_projector" in name)
    weights["model.surprise"] = weights.pop(gone)
    save_file(weights, copied / "model.safetensors")
    _refused(copied, "missing keys: projector.linear.*unexpected keys: model.surprise")


def test_whether_actions_are_motions_or_positions_must_be_said(copied: Path) -> None:
    path = copied / "vlaforget.yaml"
    options = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**options, "actions": "position"}))
    _refused(copied, "cannot be positions in a state of 8")
    del options["actions"]
    path.write_text(yaml.safe_dump(options))
    _refused(copied, "motions or positions")
    found = inspect(copied)
    assert "`actions: motion`" in found["problems"][0]


def test_inspect_says_what_it_is_before_it_is_loaded(folder: Path, policy: VlaPolicy) -> None:
    found = inspect(folder)
    assert (found["layout"], found["chunk"], found["cameras"], found["state"]) == (
        "pi0-FAST of lerobot",
        ROBOT.chunk,
        2,
        8,
    )
    assert found["actions"] == "motion"
    assert found["parameters"] == sum(p.numel() for p in policy.model.parameters())
    assert found["action_tokens"] == [policy.codec.tokens.start, policy.codec.tokens.stop - 1]
    assert found["problems"] == []


def test_at_full_size_it_has_the_parameters_that_models_lists(policy: VlaPolicy) -> None:
    """`vlaforget models` says 2.9 B."""
    assert policy.config.fast is not None
    full = pi0_fast_config(policy.normalisation, policy.config.fast, 2048)
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in Pi0Fast(full).parameters())
    assert count == pytest.approx(2.92e9, rel=5e-3)


def test_an_arm_that_is_told_positions_holds_where_it_stands(tmp_path: Path) -> None:
    write(tmp_path, (TASK,), Robot(state=7, kind="position"))
    policy = VlaPolicy.load(tmp_path)
    state = np.linspace(-0.9, 0.9, 7)
    image = np.zeros((48, 64, 3), dtype=np.uint8)
    answer = policy.act(image, TASK, state)
    assert answer.fault == ErrorCode.POLICY_NOT_AN_ACTION_TOKEN
    np.testing.assert_allclose(policy.steps(answer.action), np.tile(state, (8, 1)), rtol=1e-6)
    np.testing.assert_allclose(policy.hold_step(state), state, rtol=1e-6)
    assert policy.hold_step().size == 0
    for unusable in (state[:6], np.where(np.arange(7) == 3, np.nan, state)):
        assert policy.hold_step(unusable).size == 0


def test_without_the_state_there_is_no_prompt(policy: VlaPolicy) -> None:
    images, _, actions = _observations(1)
    for ask in (lambda: policy.encode(images, [TASK], actions), lambda: policy.act(images[0], TASK)):
        with pytest.raises(PolicyError, match="state of the robot") as caught:
            ask()
        assert caught.value.code == ErrorCode.POLICY_BAD_PARAMETER
    policy.check_instruction(TASK)


def test_names_of_the_actions_are_the_data_set_s_or_the_deployer_s(copied: Path) -> None:
    path = copied / "config.json"
    names = [*"abcdef", "gripper.pos"]
    path.write_text(json.dumps({**json.loads(path.read_text()), "action_feature_names": names}))
    assert VlaPolicy.load(copied).normalisation.names == tuple(names)
    options = yaml.safe_load((copied / "vlaforget.yaml").read_text())
    (copied / "vlaforget.yaml").write_text(yaml.safe_dump({**options, "action_names": names[:3]}))
    _refused(copied, "3 names for actions of 7 numbers")


def test_an_adapter_with_lerobot_s_names_is_read_as_it_is(policy: VlaPolicy, tmp_path: Path) -> None:
    own = random_adapter(policy, 0)
    tensors = {}
    for name, module in own.modules.items():
        theirs = checkpoint_name(f"{name}.").removesuffix(".")
        assert network_name(theirs) == name
        tensors[f"base_model.model.{theirs}.lora_A.weight"] = module.a
        tensors[f"base_model.model.{theirs}.lora_B.weight"] = module.b
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": own.rank, "lora_alpha": own.rank, "target_modules": ["q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    read = read_peft(tmp_path)
    assert read.modules.keys() == own.modules.keys()
    assert any(name.startswith("vision_backbone.featurizer.blocks.0.self_attn") for name in read.modules)
    AdapterSlots(policy.model).stage(read)
    for name, module in own.modules.items():
        assert torch.equal(read.modules[name].b, module.b)


def test_the_digest_covers_everything_that_decides_an_action(copied: Path, policy: VlaPolicy) -> None:
    assert checkpoint.digest(copied) == policy.base_digest
    names = checkpoint.files(copied)
    assert {FAST_TOKENIZER, POSTPROCESSOR, "vlaforget.yaml", "tokenizer.json"} < set(names)
    state = next(name for name in names if name.endswith("unnormalizer_processor.safetensors"))
    save_file({"action.q01": torch.zeros(7), "action.q99": torch.ones(7)}, copied / state)
    assert checkpoint.digest(copied) != policy.base_digest


def test_an_instruction_cannot_contain_what_ends_a_sentence(policy: VlaPolicy) -> None:
    images, states, _ = _observations(1)
    with pytest.raises(PolicyError, match="contains <eos>") as caught:
        policy.act(images[0], "open the <eos> door", states[0])
    assert caught.value.code == ErrorCode.POLICY_UNKNOWN_INSTRUCTION
    with pytest.raises(PolicyError, match="contains <eos>"):
        policy.check_instruction("open the <eos> door")
