"""Whether an adapter that is merged into the weights, as a robot may serve it, is still the one that was measured."""

from __future__ import annotations

import numpy as np
import torch

from vlaforget_ros.unlearning.bank import Bank
from vlaforget_ros.unlearning.gates import GateResult, Gates, at_most
from vlaforget_ros.unlearning.lora import EditAdapter
from vlaforget_ros.unlearning.metrics import OfflineMetrics
from vlaforget_ros.unlearning.workbench import Workbench

_FRAMES = 8


def merge_gate(bench: Workbench, gates: Gates, attached: OfflineMetrics) -> GateResult:
    """The gate on merging.

    Weights of 32 bits hold the sum: probabilities stay. In 16 bits the sum is rounded to the weight's own digits, which
    moves any probability by more than that, and what counts is whether the edit is still there and what it retained.

    Args:
        bench: the finished edit, its factors attached.
        gates: limits.
        attached: of the policy with the factors.
    """
    adapter = bench.adapter
    if all(adapter.original(name).dtype == torch.float32 for name in adapter.modules):
        difference = merge_difference(adapter, bench.banks["retain"])
        return at_most("merge_tolerance", difference, gates.merge_tolerance)
    with adapter.merged():
        merged = bench.evaluation.measure()
    lost = max(attached.fc - merged.fc, attached.rc - merged.rc, 0.0)
    frames = min(merged.forget_frames, merged.retain_frames)
    return at_most("merge_loss_max", lost, gates.merge_loss_max, frames)


def merge_difference(adapter: EditAdapter, bank: Bank) -> float:
    """Largest change of an action token's probability by merging the adapter, on a few frames."""
    rows = np.arange(min(_FRAMES, len(bank)))
    attached = bank.log_probs(bank.fresh(rows)).exp()
    with adapter.merged():
        merged = bank.log_probs(bank.fresh(rows)).exp()
    return float((attached - merged).abs().max())
