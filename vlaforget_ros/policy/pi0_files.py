"""The files that lerobot saves beside the weights of a pi0-FAST, and those that it fetches by name.

``config.json``, two processors with their files of statistics, ``tokenizer.json`` (of PaliGemma), and in
``fast_tokenizer/`` ``tokenizer.json`` and ``processor_config.json`` (of FAST). Nothing in them is executed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from safetensors import SafetensorError
from safetensors.torch import load_file

from vlaforget_ros.policy.prompt import TOKENIZER
from vlaforget_ros.policy.unusable import reason, unusable

TYPE = "pi0_fast"
FAST_TOKENIZER, FAST_SETTINGS = "fast_tokenizer/tokenizer.json", "fast_tokenizer/processor_config.json"
# Where newer versions of the library put it.
_NESTED = "fast_tokenizer/bpe_tokenizer/tokenizer.json"
PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor.json", "policy_postprocessor.json"
# Steps that make actions relative to the state, and absolute again.
_RELATIVE = ("relative_actions_processor", "absolute_actions_processor")
_MODES = {"QUANTILES": ("q01", "q99"), "MIN_MAX": ("min", "max"), "MEAN_STD": ("mean", "std")}


class _Feature(BaseModel):
    type: str
    shape: tuple[int, ...] = Field(min_length=1)


class SavedConfig(BaseModel):
    """The part of lerobot's config.json that is used here; defaults are lerobot's."""

    model_config = ConfigDict(extra="ignore")
    type: str
    input_features: dict[str, _Feature]
    output_features: dict[str, _Feature]
    chunk_size: int = Field(default=50, gt=0)
    max_decoding_steps: int = 256
    image_resolution: tuple[int, int] = (224, 224)
    tokenizer_max_length: int = 200
    fast_skip_tokens: int = Field(default=128, ge=0)
    use_relative_actions: bool = False
    action_feature_names: list[str] | None = None
    normalization_mapping: dict[str, str]


class _StepConfig(BaseModel):
    model_config = ConfigDict(extra="ignore")
    enabled: bool = False
    norm_map: dict[str, str] = Field(default_factory=dict)


class _Step(BaseModel):
    """One step of a processor, as far as it is looked at."""

    model_config = ConfigDict(extra="ignore")
    registry_name: str = ""
    config: _StepConfig = Field(default_factory=_StepConfig)
    state_file: str | None = None

    @field_validator("state_file")
    @classmethod
    def _inside(cls, name: str | None) -> str | None:
        """Its name only: a file elsewhere is no part of the checkpoint."""
        return None if name is None else Path(name).name


class _Processor(BaseModel):
    model_config = ConfigDict(extra="ignore")
    steps: list[_Step]


class _FastSettings(BaseModel):
    model_config = ConfigDict(extra="ignore")
    scale: float = Field(default=10.0, gt=0)
    min_token: int = 0


def is_pi0(directory: Path) -> bool:
    """Whether config.json says that this is a pi0-FAST of lerobot."""
    try:
        found = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("type") == TYPE


def read_saved(directory: Path) -> SavedConfig:
    """What config.json says, and the processors with it.

    Raises:
        PolicyError: 207 for what cannot be read or is not supported.
    """
    try:
        saved = SavedConfig.model_validate_json((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise unusable(directory, f"config.json: {reason(error)}") from error
    if saved.use_relative_actions:
        raise unusable(directory, "use_relative_actions is not supported", "train with absolute actions")
    if saved.image_resolution[0] != saved.image_resolution[1]:
        raise unusable(directory, f"image_resolution {saved.image_resolution} is no square")
    _require_agreement(directory, saved)
    return saved


def extra_files(directory: Path) -> tuple[str, ...]:
    """Names of the files beside weights, config.json and tokenizer.json that belong to the checkpoint.

    Raises:
        PolicyError: 207 where one is missing.
    """
    named = [PREPROCESSOR, POSTPROCESSOR]
    states = [file for name in named for file in _state_files(directory, name)]
    fetched = (fast_tokenizer(directory), FAST_SETTINGS)
    absent = [name for name in (TOKENIZER, *fetched) if not (directory / name).is_file()]
    if absent:
        raise unusable(
            directory,
            f"missing file(s) {', '.join(absent)}",
            "lerobot fetches them by name: copy tokenizer.json of google/paligemma-3b-pt-224 beside the weights, and "
            "tokenizer.json and processor_config.json of lerobot/fast-action-tokenizer into fast_tokenizer/",
        )
    absent = [name for name in (*named, *states) if not (directory / name).is_file()]
    if absent:
        raise unusable(directory, f"missing file(s) {', '.join(absent)}")
    return (*fetched, *named, *states)


def fast_tokenizer(directory: Path) -> str:
    """Name of the file of FAST's tokenizer."""
    return _NESTED if (directory / _NESTED).is_file() else FAST_TOKENIZER


def bounds(
    directory: Path, processor: str, saved: SavedConfig, kind: str, feature: str, count: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What becomes -1 and what becomes 1 of a feature.

    Args:
        directory: of the checkpoint.
        processor: file of the processor that scales it.
        saved: config.json.
        kind: of the feature, as ``normalization_mapping`` calls it.
        feature: its name.
        count: of its numbers.

    Raises:
        PolicyError: 207 for a mode that is not supported, or where the statistics are not there.
    """
    mode = saved.normalization_mapping.get(kind, "IDENTITY")
    if mode not in _MODES:
        raise unusable(directory, f"normalisation {mode} of {feature} is not supported: {', '.join(_MODES)}")
    found: dict[str, torch.Tensor] = {}
    for file in _state_files(directory, processor):
        try:
            found.update(load_file(directory / file))
        except (OSError, SafetensorError) as error:
            raise unusable(directory, f"{file}: {error}") from error
    low, high = (found.get(f"{feature}.{name}") for name in _MODES[mode])
    if low is None or high is None or low.shape != (count,) or high.shape != (count,):
        raise unusable(
            directory,
            f"{processor} has no {mode} statistics of {feature} with {count} numbers",
            "save the policy with the processors of its data set",
        )
    if mode == "MEAN_STD":
        # One deviation around the mean is what becomes -1 and 1.
        low, high = low - high.double(), low + high.double()
    return tuple(low.double().tolist()), tuple(high.double().tolist())


def _state_files(directory: Path, processor: str) -> list[str]:
    return [step.state_file for step in _steps(directory, processor) if step.state_file]


def _steps(directory: Path, processor: str) -> list[_Step]:
    """Steps of a processor, none where there is no such file."""
    try:
        return _Processor.model_validate_json((directory / processor).read_text(encoding="utf-8")).steps
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise unusable(directory, f"{processor}: {reason(error)}") from error


def _require_agreement(directory: Path, saved: SavedConfig) -> None:
    """Refuse processors that do something else than config.json says: lerobot runs them, and reads it for training."""
    for processor in (PREPROCESSOR, POSTPROCESSOR):
        for step in _steps(directory, processor):
            if step.registry_name in _RELATIVE and step.config.enabled:
                raise unusable(
                    directory,
                    f"{processor}: {step.registry_name} is enabled, which is not supported",
                    "train with absolute actions",
                )
            for kind in ("STATE", "ACTION"):
                mode, said = step.config.norm_map.get(kind), saved.normalization_mapping.get(kind)
                if mode not in (None, said):
                    raise unusable(
                        directory,
                        f"{processor} normalises {kind} by {mode}, config.json says {said}",
                        "save config.json and processors together, with lerobot's save_pretrained",
                    )


def fast_settings(directory: Path) -> dict[str, Any]:
    """How coefficients become characters, as arguments of FastConfig. Raises ValueError for a file that is none."""
    settings = _FastSettings.model_validate_json((directory / FAST_SETTINGS).read_text(encoding="utf-8"))
    return {"scale": settings.scale, "lowest": settings.min_token}
