"""Everything a round works on, and the few operations on it: measure, cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from vlaforget_ros.policy.policy import EditableLayer, VlaPolicy
from vlaforget_ros.unlearning import objective
from vlaforget_ros.unlearning.bank import Bank
from vlaforget_ros.unlearning.data import Split
from vlaforget_ros.unlearning.guard import Guard
from vlaforget_ros.unlearning.lora import EditAdapter
from vlaforget_ros.unlearning.metrics import OfflineEvaluation
from vlaforget_ros.unlearning.network import Entry, Network
from vlaforget_ros.unlearning.parameters import STAGES, MethodParameters
from vlaforget_ros.unlearning.records import Check
from vlaforget_ros.unlearning.views import View


@dataclass
class Workbench:
    """The policy under edit with its data.

    Args:
        policy: the policy, with ``adapter`` attached.
        network: its network.
        adapter: the edit's adapter.
        banks: the encoded sets.
        rows: of each set: trained on, and measured on.
        evaluation: offline metrics, prepared on the original policy.
        parameters: the request's.
        seed: the request's.
        guard: may stop the edit.
        layers: editable layers by component, listed before any factors were attached (those are linear layers
            too, and must not be edited themselves).
        told: what goes on where it is no step.
    """

    policy: VlaPolicy
    network: Network
    adapter: EditAdapter
    banks: dict[str, Bank]
    rows: Split
    evaluation: OfflineEvaluation
    parameters: MethodParameters
    seed: int
    guard: Guard
    layers: dict[str, list[EditableLayer]] = field(default_factory=dict)
    told: Callable[[str], None] = lambda _: None

    def modules(self, chosen: Sequence[str]) -> list[str]:
        """Linear modules of the chosen layers, in network order."""
        layers = [layer for stage in STAGES for layer in self.layers.get(stage, [])]
        return [m for layer in layers if layer.name in chosen for m in layer.modules]

    def components(self, chosen: Sequence[str]) -> list[str]:
        """Components of the chosen layers, in network order."""
        return [s for s in STAGES if any(layer.name in chosen for layer in self.layers.get(s, []))]

    def enter_at(self, entry: Entry, limit_mb: float | None = None) -> float:
        """Let all forward passes enter at ``entry``; returns the bytes that are cached for it.

        Args:
            entry: below everything that is about to change.
            limit_mb: memory for the cache; None is the request's, 0 computes on the fly.
        """
        left = 1e6 * (self.parameters.cache_mb if limit_mb is None else limit_mb)
        total = 0.0
        for bank in self.banks.values():
            total += bank.cache(entry, left - total)
        return total

    def check(self) -> Check:
        """Measure the policy as it is on held-out frames."""
        self.guard.check()
        return Check(self.evaluation.measure(), self._undesired(), self._counterfactual())

    @torch.no_grad()
    def _undesired(self) -> float:
        return self._held_mean("forget", lambda view: objective.token_mean(view.motion.exp(), view.mask))

    @torch.no_grad()
    def _counterfactual(self) -> float | None:
        if "counterfactual" not in self.banks:
            return None
        sigma = self.parameters.label_sigma_bins
        return self._held_mean("counterfactual", lambda view: view.cross_entropy(sigma))

    def _held_mean(self, name: str, value: Callable[[View], Tensor]) -> float:
        """Mean of a value (N,) over the held-out frames of a set."""
        bank, held = self.banks[name], self.rows.held[name]
        parts = bank.portions(held, lambda rows: value(View(bank, rows)), "measuring", len(held))
        return float(torch.cat([part for _, part in parts]).mean())

    def score_rows(self, name: str) -> np.ndarray:
        """The training frames of a set that layer scores and masks are computed from."""
        order = np.random.default_rng((self.seed, 77)).permutation(self.rows.train[name])
        return order[: self.parameters.score_frames]
