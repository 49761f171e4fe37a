"""The methods, by key.

To add one: a file with its class, a line here, config/methods/KEY.yaml and a row in docs/methods.md.
"""

from __future__ import annotations

from typing import Any

from vlaforget_ros.errors import ErrorCode, UnlearningError, did_you_mean
from vlaforget_ros.unlearning.methods.base import Method
from vlaforget_ros.unlearning.methods.corrected import Corrected
from vlaforget_ros.unlearning.methods.flat import Flat
from vlaforget_ros.unlearning.methods.ga import Ga
from vlaforget_ros.unlearning.methods.grad_diff import GradDiff
from vlaforget_ros.unlearning.methods.ihl import Ihl
from vlaforget_ros.unlearning.methods.npo import Npo
from vlaforget_ros.unlearning.methods.pdu import Pdu
from vlaforget_ros.unlearning.methods.rmu import Rmu
from vlaforget_ros.unlearning.methods.salun import SalUn
from vlaforget_ros.unlearning.methods.sam_npo import SamNpo
from vlaforget_ros.unlearning.methods.scrub import Scrub
from vlaforget_ros.unlearning.methods.simnpo import SimNpo
from vlaforget_ros.unlearning.methods.ssd import Ssd
from vlaforget_ros.unlearning.methods.task_vector import TaskVector
from vlaforget_ros.unlearning.methods.vla_forget import VlaForget
from vlaforget_ros.unlearning.parameters import MethodParameters

METHODS: dict[str, type[Method[Any]]] = {
    method.key: method
    for method in (
        VlaForget,
        Ga,
        GradDiff,
        Npo,
        SimNpo,
        Rmu,
        Ssd,
        SalUn,
        Scrub,
        Ihl,
        Flat,
        SamNpo,
        TaskVector,
        Pdu,
        Corrected,
    )
}


def method_class(key: str) -> type[Method[Any]]:
    """The class of a method. Raises UnlearningError 300 with the nearest keys."""
    if key == "retrain":
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAD_REQUEST,
            "bad request: method: retrain makes a checkpoint, not an adapter",
            value=key,
            limit=", ".join(METHODS),
            remedy="use `vlaforget retrain` with this request",
        )
    if key not in METHODS:
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAD_REQUEST,
            "bad request: method: unknown method",
            value=key,
            limit=", ".join(METHODS),
            remedy=did_you_mean(key, METHODS),
        )
    return METHODS[key]


def make_method(key: str, parameters: MethodParameters) -> Method[Any]:
    """A method with its parameters. Raises UnlearningError 300 for an unknown key."""
    return method_class(key)(parameters)
