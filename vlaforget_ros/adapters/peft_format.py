"""Reading and writing LoRA weights in the directory format of PEFT, checked before tensors are built.

A directory holds ``adapter_config.json`` and ``adapter_model.safetensors`` with keys
``base_model.model.<module>.lora_A.weight`` (r, in) and ``...lora_B.weight`` (out, r). Only plain LoRA is
read: variants that change what the factors mean (DoRA, rsLoRA, saved modules ...) are refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from vlaforget_ros.adapters.files import read_limited, write_synced
from vlaforget_ros.adapters.lerobot_names import network_name
from vlaforget_ros.adapters.lora import DEFAULT_RANK_LIMIT, LoraModule, LoraWeights
from vlaforget_ros.adapters.safetensors_header import TensorHeader, bad_format, parse_header
from vlaforget_ros.errors import AdapterError, ErrorCode

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
ADAPTER_FILES = (CONFIG_FILE, WEIGHTS_FILE)
MAX_CONFIG_BYTES = 4 * 1024 * 1024
MAX_WEIGHTS_BYTES = 4 * 1024**3

# SigLIP's pooling head: upstream's LoRA covers every linear layer, this one has no part in OpenVLA's features.
WITHOUT_EFFECT = "vision_backbone.fused_featurizer.attn_pool."
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
_PREFIX = "sha256:"
# Settings that change the meaning of the factors or add tensors of their own: true, or not empty, is refused.
_UNSUPPORTED = (
    *("use_dora", "use_rslora", "use_qalora", "use_bdlora", "lora_bias", "fan_in_fan_out", "modules_to_save"),
    *("layer_replication", "trainable_token_indices", "target_parameters", "alora_invocation_tokens"),
    *("megatron_config", "arrow_config", "kasa_config", "velora_config", "monteclora_config"),
)
# Other initialisations (pissa, olora, corda, loftq ...) also change the base weights.
_PLAIN_INITS = (True, False, None, "gaussian", "orthogonal", "eva")


class PeftConfig(BaseModel):
    """The settings of ``adapter_config.json`` that decide the delta; the others are checked for being off."""

    model_config = ConfigDict(extra="allow", strict=True)

    peft_type: str
    r: int = Field(ge=1)
    lora_alpha: int | float = Field(allow_inf_nan=False)
    rank_pattern: dict[str, int] = Field(default_factory=dict, max_length=20_000)
    alpha_pattern: dict[str, int | float] = Field(default_factory=dict, max_length=20_000)
    base_model_name_or_path: str | None = None
    bias: str = "none"
    init_lora_weights: bool | str | None = True

    @property
    def base_digest(self) -> str:
        """Digest of the base model if the configuration names one as ``sha256:<hex>``, else ""."""
        name = self.base_model_name_or_path or ""
        return name.removeprefix(_PREFIX) if name.startswith(_PREFIX) else ""


def encode(weights: LoraWeights) -> dict[str, bytes]:
    """The two files of an adapter as bytes, the same bytes for the same weights.

    Returns:
        file name -> content.

    Raises:
        AdapterError: 104/105 for weights that must not be written.
    """
    weights.check(rank_limit=2**31)
    tensors = {}
    for name, module in weights.modules.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = module.a.contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = module.b.contiguous()
    config = json.dumps(_config(weights), indent=2, sort_keys=True) + "\n"
    return {CONFIG_FILE: config.encode(), WEIGHTS_FILE: save_tensors(tensors)}


def write_peft(weights: LoraWeights, directory: Path) -> None:
    """Write an adapter so that ``peft.PeftModel.from_pretrained`` reads it.

    Raises:
        AdapterError: 104/105 for bad weights, 107 where the disk fails.
    """
    for name, content in encode(weights).items():
        write_synced(directory / name, content)


def read_peft(directory: Path, *, rank_limit: int = DEFAULT_RANK_LIMIT) -> LoraWeights:
    """Read an adapter directory written by this package or by PEFT.

    Raises:
        AdapterError: 100 no such directory, 104 not plain LoRA, 105 non-finite, 106 over the rank limit.
    """
    return decode(read_files(directory), rank_limit=rank_limit)


def read_files(directory: Path) -> dict[str, bytes]:
    """The two files of an adapter, bounded in size.

    Raises:
        AdapterError: 100 a file is missing, 104 it is too large or no plain file, 107 a read error.
    """
    limits = {CONFIG_FILE: MAX_CONFIG_BYTES, WEIGHTS_FILE: MAX_WEIGHTS_BYTES}
    return {name: read_limited(directory / name, limit) for name, limit in limits.items()}


def decode(files: Mapping[str, bytes], *, rank_limit: int = DEFAULT_RANK_LIMIT) -> LoraWeights:
    """Weights from the bytes of the two files: configuration and header first, tensors last.

    Factors of layers without any effect (:data:`WITHOUT_EFFECT`) are left out, and lerobot's names become ours.

    Raises:
        AdapterError: as :func:`read_peft`.
    """
    config = parse_config(files[CONFIG_FILE])
    headers = parse_header(files[WEIGHTS_FILE])
    names = [name for name in _module_names(headers) if not name.startswith(WITHOUT_EFFECT)]
    if not names:
        raise bad_format("the adapter changes no layer that has an effect", limit="one module or more")
    for name in names:
        _check_header(name, headers, config, rank_limit)
    try:
        tensors = load_tensors(files[WEIGHTS_FILE])
    except SafetensorError as error:
        raise bad_format(f"the tensors cannot be read ({error})") from error
    modules = {
        network_name(name): LoraModule(
            tensors[_key(name, "A")],
            tensors[_key(name, "B")],
            float(_pattern_value(config.alpha_pattern, name, config.lora_alpha)),
        )
        for name in names
    }
    weights = LoraWeights(modules, config.base_digest)
    weights.check(rank_limit)
    return weights


def parse_config(text: bytes) -> PeftConfig:
    """Parse ``adapter_config.json``.

    Raises:
        AdapterError: 104 for bad JSON or a LoRA variant that is not plain LoRA.
    """
    try:
        config = PeftConfig.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise bad_format(
            f"{CONFIG_FILE}: {where} {first['msg']}", value=str(first.get("input"))[:80]
        ) from error
    if config.peft_type != "LORA":
        raise bad_format("kind of adapter", value=config.peft_type, limit="LORA")
    if config.bias != "none":
        raise bad_format("the adapter trains biases", value=config.bias, limit="none")
    if config.init_lora_weights not in _PLAIN_INITS:
        raise bad_format("initialisation that changes the base weights", value=config.init_lora_weights)
    extra = config.model_extra or {}
    for setting in _UNSUPPORTED:
        if extra.get(setting):
            raise bad_format(f"{setting} is not plain LoRA", value=str(extra[setting])[:80], limit="off")
    return config


def _config(weights: LoraWeights) -> dict[str, Any]:
    first = next(iter(weights.modules.values()))
    varying = {
        "rank_pattern": {_exact(n): m.rank for n, m in weights.modules.items() if m.rank != first.rank},
        "alpha_pattern": {_exact(n): m.alpha for n, m in weights.modules.items() if m.alpha != first.alpha},
    }
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": _PREFIX + weights.base_digest if weights.base_digest else None,
        "r": first.rank,
        "lora_alpha": first.alpha,
        "target_modules": list(weights.modules),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
        **varying,
    }


def _exact(name: str) -> str:
    """PEFT matches pattern keys as regular expressions at the end of a name; the anchor makes ours exact."""
    return "^" + re.escape(name)


def _pattern_value(pattern: Mapping[str, int | float], name: str, default: int | float) -> int | float:
    """Value of a PEFT rank or alpha pattern; keys are names or their suffixes, never run as regexes."""
    for key, value in pattern.items():
        literal = re.sub(r"\\(.)", r"\1", key.removeprefix("^"))
        if re.search(r"[*+?\[\](){}|$^]|\\\w", key.removeprefix("^")):
            raise bad_format(
                "rank or alpha pattern is a regular expression", value=key[:80], limit="module names"
            )
        if name == literal or (not key.startswith("^") and name.endswith("." + literal)):
            return value
    return default


def _key(module: str, factor: str) -> str:
    return f"base_model.model.{module}.lora_{factor}.weight"


def _module_names(headers: Mapping[str, TensorHeader]) -> list[str]:
    names = set()
    for key in headers:
        match = _KEY.fullmatch(key)
        if match is None:
            raise bad_format(
                "a tensor that is no LoRA factor", value=key[:200], limit=_key("<module>", "A|B")
            )
        names.add(match["module"])
    for name in names:
        for factor in "AB":
            if _key(name, factor) not in headers:
                raise bad_format("a LoRA factor is missing", value=_key(name, factor))
    if not names:
        raise bad_format("the file holds no tensors")
    return sorted(names)


def _check_header(
    name: str, headers: Mapping[str, TensorHeader], config: PeftConfig, rank_limit: int
) -> None:
    a, b = headers[_key(name, "A")].shape, headers[_key(name, "B")].shape
    if len(a) != 2 or len(b) != 2 or a[0] != b[1] or 0 in a or 0 in b:
        raise bad_format(f"factors of {name}", value=f"A {a}, B {b}", limit="A (r, in), B (out, r)")
    if a[0] > rank_limit:
        raise AdapterError(
            ErrorCode.ADAPTER_OVER_RANK_LIMIT,
            f"rank of {name}",
            value=a[0],
            limit=rank_limit,
            remedy="edit with a lower rank, or raise rank_limit if the robot has the memory and the time",
        )
    rank = _pattern_value(config.rank_pattern, name, config.r)
    if a[0] != rank:
        raise bad_format(f"rank of {name} differs from {CONFIG_FILE}", value=a[0], limit=rank)
