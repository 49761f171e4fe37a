"""Loss terms that several methods share, each weighted and ready to be added up."""

from __future__ import annotations

import torch

from vlaforget_ros.unlearning.parameters import MethodParameters
from vlaforget_ros.unlearning.views import Terms, View, Views


def kept_sets(views: Views) -> list[View]:
    """The sets of what must stay: D_r, and D_b where there is one."""
    return [views[name] for name in ("retain", "boundary") if name in views]


def counterfactual_term(views: Views, parameters: MethodParameters) -> Terms:
    """``counterfactual_weight`` x cross-entropy on D_c; nothing without such data."""
    if "counterfactual" not in views or parameters.counterfactual_weight == 0:
        return {}
    loss = views["counterfactual"].cross_entropy(parameters.label_sigma_bins).mean()
    return {"counterfactual": parameters.counterfactual_weight * loss}


def fine_tuning_terms(views: Views, parameters: MethodParameters) -> Terms:
    """Cross-entropy of the recorded actions on D_r and D_b (mean over all their frames), and on D_c."""
    values = [view.cross_entropy(parameters.label_sigma_bins) for view in kept_sets(views)]
    return {"retain": torch.cat(values).mean(), **counterfactual_term(views, parameters)}
