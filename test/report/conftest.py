"""A record as an edit leaves it, small, and the parts of real edits that the tests of unlearning have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from edit_parts import bag, base_dir, request_text

from vlaforget_ros.adapters import LoraWeights

__all__ = ["bag", "base_dir", "request_text"]

BASE = "ab" * 32


def gate(
    name: str, value: float | None, limit: float, verdict: str = "passed", **more: Any
) -> dict[str, Any]:
    return {"name": name, "verdict": verdict, "value": value, "limit": limit, "n": None, **more}


def metrics(**more: Any) -> dict[str, Any]:
    found = {"fc": 97.0, "fc_low": 93.0, "fc_high": 99.0, "forget_frames": 100, "fad": 0.2, "tau": 0.05}
    found |= {"rc": 96.0, "rc_low": 90.0, "rc_high": 98.0, "rad": 0.05, "retain_frames": 80}
    return {**found, "rad_boundary": None, "repair": 0.1, "repair_before": 0.3, **more}


def finished_round(stage: str = "visual", number: int = 1, **more: Any) -> dict[str, Any]:
    scores = [{"layer": f"vision_backbone.featurizer.blocks.{n}", "score": 0.1 * n} for n in (2, 10)]
    points = [
        {"step": n, "retain": 2.0 / n, "forget": -0.1, "cosine": -0.2, "projected": n == 1} for n in (1, 5)
    ]
    return {
        "stage": stage, "round": number, "layers": [scores[0]["layer"]], "kept": True, "reason": "kept: <b>less</b>",
        "scores": scores, "curve": points, "steps": 5, "complete": True, **more,
    }  # fmt: skip


@pytest.fixture
def record() -> dict[str, Any]:
    before = metrics(fc=0.0, fc_low=0.0, fc_high=4.0, fad=0.0, rc=100.0, rad=0.0, repair=0.3)
    provenance = {
        "name": "sticker", "method": "vla_forget", "base_digest": BASE, "parent_digest": "", "seeds": [3],
        "versions": {"torch": "2.0"}, "datasets": {"forget": "cd" * 32},
    }  # fmt: skip
    request = {
        "reason": "a sticker <pulls> the arm",
        "requester": "safety team",
        "seed": 3,
        "gates": {},
        "budget": {},
    }
    return {
        "request": request,
        "request_sha256": "ef" * 32,
        "provenance": provenance,
        "sources": ["forget: 4 episodes, 100 frames"],
        "hardware": {"processor": "CPU", "cores": 2, "memory_gb": 8.0, "gpu": None},
        "layers": ["vision_backbone.featurizer.blocks.2"],
        "components": ["visual"],
        "before": {"metrics": before, "undesired": 0.6, "counterfactual": 4.0},
        "after": {"metrics": metrics(), "undesired": 0.1, "counterfactual": 2.0},
        "gates": [
            gate("fc_min", 97.0, 95.0, n=100, low=93.0, high=99.0),
            gate("tsr_loss_max", None, 5.0, "not_measured"),
        ],
        "gates_passed": True,
        "remarks": ["out of time: stage language did not run"],
        "rounds": [finished_round(), finished_round("projector", kept=False)],
        "seconds": 12.5,
        "peak_mb": 900.0,
        "adapter_bytes": 4096,
    }


@pytest.fixture
def weights() -> LoraWeights:
    tensors = {"projector.fc1": (torch.ones(2, 4), torch.ones(8, 2))}
    return LoraWeights.from_tensors(tensors, alpha=2.0, base_digest=BASE).with_digests("12" * 32, BASE)
