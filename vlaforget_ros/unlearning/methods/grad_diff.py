"""Gradient difference (Liu et al. 2022, arXiv 2203.12817; TOFU, Maini et al. 2024, arXiv 2401.06121).

L = -gamma NLL(D_f) + alpha CE(D_r).
"""

from __future__ import annotations

from pydantic import Field

from vlaforget_ros.unlearning.losses import fine_tuning_terms
from vlaforget_ros.unlearning.methods.base import JointMethod
from vlaforget_ros.unlearning.parameters import JointParameters
from vlaforget_ros.unlearning.views import Terms, Views


class GradDiffParameters(JointParameters):
    """Parameters of ``grad_diff``."""

    gamma: float = Field(default=1.0, ge=0, description="weight of the ascent on D_f")
    alpha: float = Field(default=1.0, ge=0, description="weight of the retain loss")


class GradDiff(JointMethod[GradDiffParameters]):
    """L = -gamma NLL(D_f) + alpha CE(D_r and D_b) [+ alpha w CE(D_c)]."""

    key = "grad_diff"
    title = "ascent on D_f, descent on what must stay"
    source = "arXiv 2203.12817"
    Parameters = GradDiffParameters

    def forget(self, views: Views) -> Terms:
        """Ascent on the negative log-likelihood of the undesired motions."""
        return {"forget": -self.parameters.gamma * views["forget"].nll.mean()}

    def retain(self, views: Views) -> Terms:
        """Fine-tuning, weighted."""
        terms = fine_tuning_terms(views, self.parameters)
        return {name: self.parameters.alpha * value for name, value in terms.items()}
