"""Decoding gives the tokens of the library's ``generate``, computing less."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import LlamaForCausalLM

from vlaforget_ros.adapters.peft_format import read_peft
from vlaforget_ros.errors import AdapterError, ErrorCode
from vlaforget_ros.policy import checkpoint
from vlaforget_ros.policy.config import PolicyConfig
from vlaforget_ros.policy.decoding import Decoder
from vlaforget_ros.policy.model import OpenVla
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.slots import AdapterSlots

ACTIONS = range(40, 56)


def _model(seed: int = 0, **language: object) -> OpenVla:
    """Random weights; the tokens of actions are the likeliest everywhere."""
    torch.manual_seed(seed)
    sizes = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 4, "vocab_size": 64, "pad_token_id": 0,
    }  # fmt: skip
    stats = {
        "names": ("x",), "units": ("m",), "q01": (-1.0,), "q99": (1.0,), "mask": (True,), "hold": (0.0,),
    }  # fmt: skip
    model = OpenVla(
        PolicyConfig.model_validate(
            {
                "language": {**sizes, **language},
                "action_vocab_end": 56,
                "bins": 16,
                "norm_stats": {"robot": stats},
            }
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.language_model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
        model.language_model.lm_head.weight[ACTIONS.start : ACTIONS.stop] *= 20.0
    return model


@torch.inference_mode()
def _library(language: LlamaForCausalLM, embeds: Tensor, count: int) -> Tensor:
    found: Tensor = language.generate(
        inputs_embeds=embeds, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0
    )
    return found


def _embeds(seed: int, batch: int, length: int) -> Tensor:
    return torch.randn(batch, length, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "language",
    [
        {},
        {"num_key_value_heads": 2},
        {"attention_bias": True, "mlp_bias": True},
        {"head_dim": 16},
        {"num_hidden_layers": 1},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}},
    ],
    ids=["plain", "grouped_heads", "biases", "wide_heads", "one_layer", "scaled_positions"],
)
@pytest.mark.parametrize("checked", [0, 1, 5])
def test_tokens_are_those_of_the_library(language: dict[str, object], checked: int) -> None:
    model = _model(**language)
    decoder = Decoder(model, ACTIONS, checked)
    # The same buffers serve again, and other lengths and batch sizes in between leave nothing in them.
    for seed, batch, length in [(0, 1, 9), (1, 1, 9), (2, 1, 12), (3, 3, 9), (0, 1, 9)]:
        embeds = _embeds(seed, batch, length)
        assert torch.equal(decoder.decode(embeds, 5), _library(model.language_model, embeds, 5))


def test_different_inputs_give_different_tokens() -> None:
    decoder = Decoder(_model(), ACTIONS)
    assert not torch.equal(decoder.decode(_embeds(0, 1, 9), 5), decoder.decode(_embeds(1, 1, 9), 5))


def test_a_policy_that_wants_to_talk_shows_in_the_checked_tokens() -> None:
    model = _model()
    with torch.no_grad():
        model.language_model.lm_head.weight[:40] *= 1000.0
    embeds = _embeds(0, 2, 7)
    first_only = Decoder(model, ACTIONS, checked=1).decode(embeds, 4)
    assert (first_only[:, 0] < 40).all()
    assert all(int(token) in ACTIONS for token in first_only[:, 1:].flatten())
    assert torch.equal(
        Decoder(model, ACTIONS, checked=4).decode(embeds, 4), _library(model.language_model, embeds, 4)
    )


def test_only_action_rows_of_the_head_and_one_position_of_the_last_layer_are_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows: list[int] = []
    plain = torch.nn.functional.linear

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if weight.data_ptr() >= head.data_ptr() and weight.data_ptr() < head.data_ptr() + head.nbytes:
            rows.append(len(weight))
        return plain(x, weight, bias)

    model = _model()
    head = model.language_model.lm_head.weight
    seen: list[int] = []
    last = model.language_model.model.layers[-1].mlp
    last.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[1]))
    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    Decoder(model, ACTIONS, checked=1).decode(_embeds(0, 1, 9), 4)
    assert rows == [64, 16, 16, 16]
    assert seen == [1, 1, 1, 1]


def test_adapters_take_part(policy: VlaPolicy, images: np.ndarray, tmp_path: Path) -> None:
    """Tokens with an adapter on the slots are those of the library with PEFT's own layers."""
    wrapped = get_peft_model(
        VlaPolicy.load(_saved(policy, tmp_path)).model,
        LoraConfig(r=4, lora_alpha=8, target_modules=r".*layers\.\d+\..*(q|k|v|o|up|down|gate)_proj"),
    )
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    wrapped.save_pretrained(tmp_path / "lora")
    # Nothing was learned, so most tokens are text.
    policy = VlaPolicy(policy.model, policy.tokenizer, "", checked_tokens=policy.codec.dims)
    plain = policy.act(images[0], "open the faucet").tokens
    slots = AdapterSlots(policy.model)
    slots.activate(slots.stage(read_peft(tmp_path / "lora")))
    adapted = policy.act(images[0], "open the faucet").tokens

    batch = policy.encode(images[:1], ["open the faucet"], np.zeros((1, 4)))
    prompt = batch.input_ids[:, : -policy.codec.dims]
    with torch.inference_mode():
        inner = wrapped.base_model.model
        embeds = inner.embed(inner.projector(inner.vision_backbone(batch.pixel_values)), prompt)
    assert list(adapted) == _library(inner.language_model, embeds, policy.codec.dims)[0].tolist()
    assert adapted != plain


def test_an_adapter_of_the_lm_head_is_refused(policy: VlaPolicy, tmp_path: Path) -> None:
    """Only a few rows of the head are computed: a delta on it would be ignored in silence."""
    wrapped = get_peft_model(
        VlaPolicy.load(_saved(policy, tmp_path)).model, LoraConfig(r=2, target_modules=["lm_head"])
    )
    wrapped.save_pretrained(tmp_path / "lora", save_embedding_layers=False)
    with pytest.raises(AdapterError) as caught:
        AdapterSlots(policy.model).stage(read_peft(tmp_path / "lora"))
    assert caught.value.code == ErrorCode.ADAPTER_BAD_SHAPE
    assert "lm_head" in str(caught.value)


def _saved(policy: VlaPolicy, tmp_path: Path) -> Path:
    checkpoint.save(tmp_path / "base", policy.model, policy.tokenizer)
    return tmp_path / "base"
