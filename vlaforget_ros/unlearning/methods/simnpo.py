"""SimNPO: NPO without a reference policy (Fan et al. 2024, arXiv 2410.07163, eq. 4).

L = -(2/beta) E log sigmoid(-beta mean(log pi) - gamma) on D_f, plus the retain loss; the mean is over tokens.
"""

from __future__ import annotations

from pydantic import Field
from torch.nn import functional

from vlaforget_ros.unlearning.methods.base import JointMethod
from vlaforget_ros.unlearning.parameters import JointParameters
from vlaforget_ros.unlearning.views import Terms, Views


class SimNpoParameters(JointParameters):
    """Parameters of ``simnpo``."""

    beta: float = Field(default=2.5, gt=0, description="inverse temperature; the authors use 2.5 to 4.5")
    gamma: float = Field(default=0.0, ge=0, description="margin [nat]")


class SimNpo(JointMethod[SimNpoParameters]):
    """L = SimNPO(D_f) + CE(D_r and D_b) [+ w CE(D_c)]."""

    key = "simnpo"
    title = "NPO without a reference policy, per token"
    source = "arXiv 2410.07163"
    Parameters = SimNpoParameters

    def forget(self, views: Views) -> Terms:
        """SimNPO of the undesired motions; frames without any do not count."""
        p, view = self.parameters, views["forget"]
        loss = (2.0 / p.beta) * functional.softplus(p.gamma - p.beta * view.nll) * view.has_undesired
        return {"forget": loss.mean()}
