"""Any method with a few small steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from vlaforget_ros.unlearning.edit import EditResult, EditSettings
from vlaforget_ros.unlearning.methods import METHODS, make_method

SMALL: dict[str, Any] = {
    "batch_forget": 4,
    "batch_retain": 4,
    "batch_boundary": 4,
    "batch_counterfactual": 4,
    "score_frames": 8,
    "rank": 4,
    "lora_alpha": 8,
    "checkpoint_steps": 2,
}
OWN: dict[str, dict[str, Any]] = {
    "vla_forget": {
        "steps_visual": 3,
        "steps_projector": 3,
        "steps_language": 3,
        "min_gain": 0.0,
        "min_share": 0.0,
        "max_rounds": 1,
    },
    "ssd": {"fisher_frames": 4, "alpha": 1.0},
    "scrub": {"steps": 3, "cycles": 2},
    "ihl": {"fila": True, "steps": 5},
}


def small_settings(key: str, settings: EditSettings) -> EditSettings:
    """A few small steps of a method."""
    own = OWN.get(key, {"steps": 5})
    return replace(settings, method=make_method(key, METHODS[key].Parameters(**SMALL, **own)))


def bits(result: EditResult) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    return {name: (module.a, module.b) for name, module in result.weights.modules.items()}
