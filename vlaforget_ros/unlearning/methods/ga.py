"""Gradient ascent on the forget set (Jang et al. 2022, arXiv 2210.01504; Yao et al. 2023, arXiv 2310.10683).

L = -NLL(D_f).  Unbounded: it ends in a destroyed policy, given steps enough. Counterfactual data, where a request has
them, are the only thing it retains.
"""

from __future__ import annotations

from pydantic import Field

from vlaforget_ros.unlearning.losses import counterfactual_term
from vlaforget_ros.unlearning.methods.base import JointMethod
from vlaforget_ros.unlearning.parameters import JointParameters
from vlaforget_ros.unlearning.views import Terms, Views


class GaParameters(JointParameters):
    """Parameters of ``ga``."""

    learning_rate: float = Field(default=1e-4, gt=0, le=1)


class Ga(JointMethod[GaParameters]):
    """L = -NLL(D_f) [+ w CE(D_c)]."""

    key = "ga"
    title = "gradient ascent on D_f"
    source = "arXiv 2210.01504"
    Parameters = GaParameters

    def forget(self, views: Views) -> Terms:
        """Ascent on the negative log-likelihood of the undesired motions."""
        return {"forget": -views["forget"].nll.mean()}

    def retain(self, views: Views) -> Terms:
        """Counterfactual data only."""
        return counterfactual_term(views, self.parameters)
