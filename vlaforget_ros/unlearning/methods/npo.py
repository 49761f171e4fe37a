"""Negative preference optimisation (Zhang et al. 2024, arXiv 2404.05868, eq. 3).

L = (2/beta) E log(1 + (pi/pi_0)^beta) on D_f, plus the retain loss; the log-ratio is a mean over tokens.
"""

from __future__ import annotations

from pydantic import Field

from vlaforget_ros.unlearning import objective
from vlaforget_ros.unlearning.methods.base import JointMethod
from vlaforget_ros.unlearning.parameters import JointParameters
from vlaforget_ros.unlearning.views import Terms, Views


class NpoParameters(JointParameters):
    """Parameters of ``npo``."""

    beta: float = Field(default=0.1, gt=0, description="inverse temperature")


class Npo(JointMethod[NpoParameters]):
    """L = NPO(D_f) + CE(D_r and D_b) [+ w CE(D_c)]."""

    key = "npo"
    title = "negative preference optimisation: ascent that saturates"
    source = "arXiv 2404.05868"
    Parameters = NpoParameters

    def forget(self, views: Views) -> Terms:
        """NPO of the undesired motions; frames without any do not count."""
        view = views["forget"]
        loss = objective.npo(view.log_ratio, self.parameters.beta) * view.has_undesired
        return {"forget": loss.mean()}
