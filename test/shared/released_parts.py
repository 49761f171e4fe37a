"""A small random checkpoint in OpenVLA's released layout, with outputs of an implementation that is not ours.

The vision towers are transformers' own DINOv2 and SigLIP with the same weights under their names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    LlamaConfig,
    LlamaForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from vlaforget_ros.bench import random_oft
from vlaforget_ros.policy.config import ActionNormalisation, PolicyConfig, VisionTowerConfig
from vlaforget_ros.policy.model import OpenVla
from vlaforget_ros.policy.prompt import build_tokenizer

INSTRUCTION = "open the faucet"
INSTRUCTIONS = (INSTRUCTION, "close the window", "make a coffee now")
ACTION = {"q01": [-0.1] * 6 + [0.0], "q99": [0.1] * 6 + [1.0], "mask": [True] * 6 + [False]}
TEXT = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 32064, "pad_token_id": 32000,
}  # fmt: skip
_SIZES = {"image_size": 28, "patch_size": 14}


def network(seed: int) -> OpenVla:
    """Random weights, large enough that images and tokens matter; the action rows of the LM head are scaled up."""
    dino = VisionTowerConfig(
        **_SIZES, dim=32, depth=3, heads=2, mlp_dim=128, registers=4, class_token=True, layer_scale=True,
        feature_block=-2,
    )  # fmt: skip
    siglip = VisionTowerConfig(**_SIZES, dim=48, depth=3, heads=3, mlp_dim=72, feature_block=-2)
    stats = ActionNormalisation(
        names=tuple("abcdefg"), units=("",) * 7, hold=(0.0,) * 7,
        **{name: tuple(values) for name, values in ACTION.items()},
    )  # fmt: skip
    language = {name: value for name, value in TEXT.items() if name != "model_type"}
    torch.manual_seed(seed)
    model = OpenVla(
        PolicyConfig(
            featurizer=dino, fused_featurizer=siglip, language=language, action_vocab_end=32000,
            norm_stats={"robot": stats},
        )
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.6 / parameter[0].numel() ** 0.5)
        model.language_model.model.embed_tokens.weight.normal_(std=0.5)
        model.language_model.lm_head.weight[31744:32000] *= 8.0
    return model.eval()


def write_released(directory: Path, seed: int = 0, **changes: Any) -> OpenVla:
    """A checkpoint in two shards with index, config.json, tokenizer and the unused pooling head; returns the network.

    Args:
        directory: gets the files.
        seed: of the weights.
        changes: of config.json.
    """
    directory.mkdir(parents=True, exist_ok=True)
    model = network(seed)
    tensors = {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}
    tensors["vision_backbone.fused_featurizer.attn_pool.q.weight"] = torch.zeros(48, 48)
    names = sorted(tensors)
    places = {name: f"model-0000{1 + (n % 2)}-of-00002.safetensors" for n, name in enumerate(names)}
    for file in sorted(set(places.values())):
        save_file({name: tensors[name] for name in names if places[name] == file}, directory / file)
    (directory / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": places})
    )
    config = {
        "model_type": "openvla", "architectures": ["OpenVLAForActionPrediction"], "image_sizes": [28, 28],
        "timm_model_ids": ["smalldino", "smallsiglip"], "llm_backbone_id": "llama2-7b-pure", "text_config": TEXT,
        "pad_token_id": 32000, "pad_to_multiple_of": 64, "n_action_bins": 256,
        "norm_stats": {"robot": {"action": ACTION}},
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps({**config, **changes}))
    build_tokenizer(INSTRUCTIONS, 64).save(str(directory / "tokenizer.json"))
    return model


def write_oft(directory: Path, seed: int = 0, chunk: int = 3, state: int = 0, images: int = 1) -> None:
    """The same beside an action head, and a projector of the state if it has numbers, as OpenVLA-OFT saves them.

    Args:
        directory: gets the files.
        seed: of the weights.
        chunk: control ticks of an action.
        state: numbers of the robot's state.
        images: cameras.
    """
    write_released(directory, seed)
    random_oft.add_parts(directory, TEXT["hidden_size"], ACTION, random_oft.Robot(chunk, state, images), seed)


@torch.no_grad()
def write_reference(directory: Path, model: OpenVla, prompt: list[int], seed: int = 0) -> None:
    """``reference.json`` and ``reference.safetensors`` of two images, from the other implementation."""
    pixels = torch.randn(2, 6, 28, 28, generator=torch.Generator().manual_seed(seed))
    projector = model.projector
    hidden = torch.cat([_dino(model, pixels[:, :3]), _siglip(model, pixels[:, 3:])], dim=-1)
    for layer in (projector.fc1, projector.fc2):
        hidden = functional.gelu(functional.linear(hidden, layer.weight, layer.bias))
    features = functional.linear(hidden, projector.fc3.weight, projector.fc3.bias)
    language = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in TEXT.items() if k != "model_type"})).eval()
    language.load_state_dict(model.language_model.state_dict())
    table = language.get_input_embeddings()
    ids = torch.tensor([prompt])

    def logits(tokens: Tensor) -> Tensor:
        words = table(tokens)
        return language(inputs_embeds=torch.cat([words[:, :1], features, words[:, 1:]], dim=1)).logits

    # Without a cache, a whole pass for each token.
    generated = ids.expand(2, -1)
    for _ in range(7):
        generated = torch.cat([generated, logits(generated)[:, -1:].argmax(-1)], dim=1)
    tokens = generated[:, -7:]
    labelled = torch.cat([generated, torch.full((2, 1), 2)], dim=1)
    loss = functional.cross_entropy(logits(labelled)[:, -9:-1].flatten(0, 1), labelled[:, -8:].flatten())
    tensors = {
        "input_ids": ids, "pixel_values": pixels, "projector_features": features,
        "last_logits": logits(ids.expand(2, -1))[:, -1], "labelled_ids": labelled,
    }  # fmt: skip
    save_file(
        {f"0.{name}": value.contiguous() for name, value in tensors.items()},
        directory / "reference.safetensors",
    )
    case = {
        "actions": _actions(tokens.numpy()).tolist(),
        "generated_tokens": tokens.tolist(),
        "loss_on_labelled_ids": float(loss),
    }
    (directory / "reference.json").write_text(json.dumps({"unnorm_key": "robot", "cases": [case]}))


def _actions(tokens: np.ndarray) -> np.ndarray:
    edges = np.linspace(-1, 1, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    value = centres[np.clip(32000 - tokens - 1, 0, 254)]
    low, high = np.array(ACTION["q01"]), np.array(ACTION["q99"])
    return np.where(ACTION["mask"], 0.5 * (value + 1) * (high - low) + low, value)


def _dino(model: OpenVla, pixels: Tensor) -> Tensor:
    ours = model.vision_backbone.featurizer.state_dict()
    config = Dinov2WithRegistersConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, mlp_ratio=4, num_register_tokens=4,
        layer_norm_eps=1e-6, **_SIZES,
    )  # fmt: skip
    theirs = Dinov2WithRegistersModel(config).eval()
    table = {
        "embeddings.cls_token": ours["cls_token"],
        "embeddings.mask_token": torch.zeros(1, 32),
        "embeddings.register_tokens": ours["reg_token"],
        # timm's network has no position on the class token.
        "embeddings.position_embeddings": torch.cat([torch.zeros(1, 1, 32), ours["pos_embed"]], dim=1),
        "embeddings.patch_embeddings.projection.weight": ours["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": ours["patch_embed.proj.bias"],
        "layernorm.weight": ours["norm.weight"],
        "layernorm.bias": ours["norm.bias"],
    }
    renamed = {"norm1": "norm1", "norm2": "norm2", "attn.proj": "attention.o_proj"}
    table |= _blocks(ours, "encoder.layer", renamed, "attention")
    for block in range(3):
        for scale in (1, 2):
            lambdas = f"encoder.layer.{block}.layer_scale{scale}.lambda1"
            table[lambdas] = ours[f"blocks.{block}.ls{scale}.scale_factor"]
    theirs.load_state_dict(table)
    return theirs(pixels, output_hidden_states=True).hidden_states[-2][:, 5:]


def _siglip(model: OpenVla, pixels: Tensor) -> Tensor:
    ours = model.vision_backbone.fused_featurizer.state_dict()
    config = SiglipVisionConfig(
        hidden_size=48, intermediate_size=72, num_hidden_layers=3, num_attention_heads=3, hidden_act="gelu",
        layer_norm_eps=1e-6, vision_use_head=False, **_SIZES,
    )  # fmt: skip
    theirs = SiglipVisionModel(config).eval()
    table = {
        "embeddings.patch_embedding.weight": ours["patch_embed.proj.weight"],
        "embeddings.patch_embedding.bias": ours["patch_embed.proj.bias"],
        "embeddings.position_embedding.weight": ours["pos_embed"][0],
        "post_layernorm.weight": ours["norm.weight"],
        "post_layernorm.bias": ours["norm.bias"],
    }
    renamed = {"norm1": "layer_norm1", "norm2": "layer_norm2", "attn.proj": "self_attn.out_proj"}
    table |= _blocks(ours, "encoder.layers", renamed, "self_attn")
    wanted = theirs.state_dict().keys()
    prefix = "vision_model." if any(name.startswith("vision_model.") for name in wanted) else ""
    theirs.load_state_dict({prefix + name: value for name, value in table.items()})
    return theirs(pixels, output_hidden_states=True).hidden_states[-2]


def _blocks(
    ours: dict[str, Tensor], prefix: str, renamed: dict[str, str], attention: str
) -> dict[str, Tensor]:
    """Three blocks under the names of the library, the fused projection taken apart."""
    found = {}
    names = {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2", **renamed}
    for block in range(3):
        for kind in ("weight", "bias"):
            for old, new in names.items():
                found[f"{prefix}.{block}.{new}.{kind}"] = ours[f"blocks.{block}.{old}.{kind}"]
            parts = ours[f"blocks.{block}.attn.qkv.{kind}"].chunk(3)
            for name, part in zip("qkv", parts, strict=True):
                found[f"{prefix}.{block}.{attention}.{name}_proj.{kind}"] = part
    return found
