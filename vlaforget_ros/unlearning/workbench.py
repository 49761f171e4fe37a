"""Everything a stage works on, and the few operations on it: measure, rank layers, cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from vlaforget_ros.policy.labels import cross_entropy
from vlaforget_ros.policy.policy import EditableLayer, VlaPolicy
from vlaforget_ros.unlearning import objective
from vlaforget_ros.unlearning.bank import Bank
from vlaforget_ros.unlearning.data import Split
from vlaforget_ros.unlearning.guard import Guard
from vlaforget_ros.unlearning.lora import EditAdapter, linear
from vlaforget_ros.unlearning.metrics import OfflineEvaluation
from vlaforget_ros.unlearning.network import Entry, Network
from vlaforget_ros.unlearning.parameters import StageName, VlaForgetParameters
from vlaforget_ros.unlearning.records import Check
from vlaforget_ros.unlearning.scores import LayerScore, score_layers


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
    """

    policy: VlaPolicy
    network: Network
    adapter: EditAdapter
    banks: dict[str, Bank]
    rows: Split
    evaluation: OfflineEvaluation
    parameters: VlaForgetParameters
    seed: int
    guard: Guard
    layers: dict[str, list[EditableLayer]] = field(default_factory=dict)

    def modules(self, stage: StageName, chosen: Sequence[str]) -> list[str]:
        """Linear modules of the chosen layers, in network order."""
        return [m for layer in self.layers[stage] if layer.name in chosen for m in layer.modules]

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

    def rank(self, stage: StageName) -> list[LayerScore]:
        """All layers of a component in the order of editing, best first; none may carry factors yet."""
        layers = self.layers[stage]
        self.enter_at(self.network.entry([layer.name for layer in layers]), limit_mb=0)
        weights = {
            layer.name: [linear(self.policy.model, m).weight for m in layer.modules] for layer in layers
        }
        flat = [w for matrices in weights.values() for w in matrices]
        for weight in flat:
            weight.requires_grad_(True)
        forget, retain = self._gradient("forget", weights, flat), self._gradient("retain", weights, flat)
        self.policy.model.requires_grad_(False)
        if stage != "language":
            return score_layers(weights, forget, retain, "phi", self.parameters.alpha)
        scores = score_layers(weights, forget, retain, "sig", self.parameters.alpha)
        return upper_first(scores, list(weights), self.parameters.upper_share)

    def _gradient(
        self, name: str, weights: dict[str, list[Tensor]], flat: list[Tensor]
    ) -> dict[str, Sequence[Tensor]]:
        """Gradient, by layer, of the mean negative log-likelihood of the recorded motions of a set."""
        bank = self.banks[name]
        order = np.random.default_rng((self.seed, 77)).permutation(self.rows.train[name])
        rows = order[: self.parameters.score_frames]
        motion = self._motion(bank, rows)
        loss = -objective.token_mean(motion, bank.mask[torch.from_numpy(rows)]).mean()
        gradients = iter(torch.autograd.grad(loss, flat))
        return {layer: [next(gradients) for _ in matrices] for layer, matrices in weights.items()}

    @torch.no_grad()
    def _undesired(self) -> float:
        bank, rows = self.banks["forget"], self.rows.held["forget"]
        values = objective.token_mean(self._motion(bank, rows).exp(), bank.mask[torch.from_numpy(rows)])
        return float(values.mean())

    @torch.no_grad()
    def _counterfactual(self) -> float | None:
        bank = self.banks.get("counterfactual")
        if bank is None:
            return None
        rows = self.rows.held["counterfactual"]
        log_probs = bank.log_probs(bank.forward(rows))
        bins = bank.bins[torch.from_numpy(rows)]
        return float(cross_entropy(log_probs, bins, self.parameters.label_sigma_bins).mean())

    def _motion(self, bank: Bank, rows: np.ndarray) -> Tensor:
        log_probs = bank.log_probs(bank.forward(rows))
        bins = bank.bins[torch.from_numpy(rows)]
        return objective.motion_log_prob(log_probs, bins, self.parameters.forget_window_bins)


def upper_first(scores: list[LayerScore], order: list[str], share: float) -> list[LayerScore]:
    """Layers of the upper share of the network first, each part in order of its score."""
    upper = set(order[len(order) - max(1, round(share * len(order))) :])
    return [s for s in scores if s.layer in upper] + [s for s in scores if s.layer not in upper]
