"""The objective on batches: which term of which set, with which weight, in which of the two groups."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from vlaforget_ros.policy.labels import cross_entropy
from vlaforget_ros.unlearning import objective
from vlaforget_ros.unlearning.bank import Bank
from vlaforget_ros.unlearning.network import Output
from vlaforget_ros.unlearning.parameters import VlaForgetParameters

Banks = Mapping[str, Bank]
Terms = dict[str, Tensor]


def forget_terms(bank: Bank, rows: np.ndarray, parameters: VlaForgetParameters) -> Terms:
    """Weighted terms of the forget group on D_f: -lambda_f L_forget and -lambda_m L_mismatch."""
    p, index = parameters, torch.from_numpy(rows)
    log_probs = bank.log_probs(bank.forward(rows))
    mask = bank.mask[index]
    terms: Terms = {}
    if p.lambda_f > 0:
        motion = objective.motion_log_prob(log_probs, bank.bins[index], p.forget_window_bins)
        reference = bank.motion_reference[index]
        loss = objective.forget_loss(motion, reference, mask, p.forget_form, p.npo_beta, p.nll_cap)
        terms["forget"] = p.lambda_f * loss.mean()
    if p.lambda_m > 0:
        loss = objective.mismatch_loss(log_probs, bank.reference.log_probs[index], mask, p.mismatch_cap)
        terms["mismatch"] = p.lambda_m * loss.mean()
    return terms


def retain_terms(banks: Banks, rows: Mapping[str, np.ndarray], parameters: VlaForgetParameters) -> Terms:
    """Weighted terms of the retain group: L_retain (cross-entropy, KL, counterfactual), lambda_feat L_feat.

    Args:
        banks: retain, and where there are any boundary and counterfactual.
        rows: the batch of each.
        parameters: weights.
    """
    p = parameters
    terms: Terms = {}
    outputs: dict[str, Output] = {name: banks[name].forward(rows[name]) for name in rows}
    log_probs = {name: banks[name].log_probs(output) for name, output in outputs.items()}
    index = {name: torch.from_numpy(r) for name, r in rows.items()}
    terms["retain"] = _cross_entropy(banks["retain"], log_probs["retain"], index["retain"], p)
    if "counterfactual" in rows and p.counterfactual_weight > 0:
        bank = banks["counterfactual"]
        loss = _cross_entropy(bank, log_probs["counterfactual"], index["counterfactual"], p)
        terms["counterfactual"] = p.counterfactual_weight * loss
    kept = [name for name in ("retain", "boundary") if name in rows]
    if p.kl_weight > 0:
        values = [
            objective.kl_divergence(
                objective.sharpened(banks[name].reference.log_probs[index[name]], p.kl_sharpness),
                log_probs[name],
            )
            for name in kept
        ]
        terms["kl"] = p.kl_weight * torch.cat(values).mean()
    if p.lambda_feat > 0:
        features = [
            loss for name in kept for loss in _feature_losses(banks[name], outputs[name], index[name])
        ]
        if features:
            terms["feature"] = p.lambda_feat * torch.stack(features).mean()
    return terms


def _cross_entropy(bank: Bank, log_probs: Tensor, index: Tensor, parameters: VlaForgetParameters) -> Tensor:
    return cross_entropy(log_probs, bank.bins[index], parameters.label_sigma_bins).mean()


def _feature_losses(bank: Bank, output: Output, index: Tensor) -> list[Tensor]:
    """One value for each kind of feature that the present stage can change."""
    losses = []
    if output.visual is not None and output.visual.requires_grad:
        losses.append(objective.feature_loss(output.visual, bank.reference.visual[index]).mean())
    if output.projected is not None and output.projected.requires_grad:
        losses.append(objective.feature_loss(output.projected, bank.reference.projected[index]).mean())
    return losses
