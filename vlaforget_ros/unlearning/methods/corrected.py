"""Corrected fine-tuning: cross-entropy on D_r, D_b and D_c, and no forget term at all.

The control of every comparison: what it reaches was not the forget term's doing. Without counterfactual data it is
plain fine-tuning on what must stay.
"""

from __future__ import annotations

from vlaforget_ros.unlearning.methods.base import JointMethod
from vlaforget_ros.unlearning.parameters import JointParameters


class Corrected(JointMethod[JointParameters]):
    """L = CE(D_r and D_b) + w CE(D_c)."""

    key = "corrected"
    title = "fine-tuning on right behaviour only: the control"
    source = "no forget term"
    Parameters = JointParameters
