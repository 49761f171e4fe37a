"""NPO with sharpness-aware minimisation (Fan et al. 2025, arXiv 2502.05374): harder to undo by relearning.

The forget gradient is taken at theta + rho g / ||g||, where g is the forget gradient at theta (Foret et al. 2021,
arXiv 2010.01412); the retain gradient is taken at theta. theta are the trained factors. The forget loss that is
logged is the one of the neighbour.
"""

from __future__ import annotations

from pydantic import Field

from vlaforget_ros.unlearning.methods.npo import Npo, NpoParameters
from vlaforget_ros.unlearning.pcgrad import Surgery
from vlaforget_ros.unlearning.steps import Step


class SamNpoParameters(NpoParameters):
    """Parameters of ``sam_npo``."""

    rho: float = Field(default=0.01, gt=0, description="radius of the perturbation of the trained factors")


class SamNpo(Npo):
    """NPO whose forget gradient is that of the worst neighbour."""

    key = "sam_npo"
    title = "NPO at the worst neighbour of the weights"
    source = "arXiv 2502.05374"
    Parameters = SamNpoParameters
    parameters: SamNpoParameters

    def gradients(self, step: Step) -> Surgery:
        """The forget gradient of the perturbed factors, the retain gradient of the factors as they are."""
        retain = step.gradient(self.retain)
        with step.moved(step.gradient(self.forget), self.parameters.rho):
            forget = step.gradient(self.forget)
        return self.surgery(forget, retain)
