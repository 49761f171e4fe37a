"""Which network a configuration is of."""

from __future__ import annotations

from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError

from vlaforget_ros.policy.config import PolicyConfig
from vlaforget_ros.policy.model import OpenVla
from vlaforget_ros.policy.oft import OpenVlaOft
from vlaforget_ros.policy.pi0 import Pi0Fast
from vlaforget_ros.policy.unusable import reason, unusable


def build(config: PolicyConfig) -> OpenVla:
    """The network of a configuration, with weights as its parts are initialised."""
    if config.fast is not None:
        return Pi0Fast(config)
    return OpenVla(config) if config.oft is None else OpenVlaOft(config)


def outline(directory: Path, config: PolicyConfig) -> OpenVla:
    """The network of a checkpoint's configuration without weights, on the meta device.

    Args:
        directory: of the checkpoint, for messages.
        config: of it.

    Raises:
        PolicyError: 207 for arguments of the language model that its library does not take.
    """
    try:
        with torch.device("meta"):
            return build(config)
    except (StrictDataclassError, TypeError, ValueError, KeyError, ArithmeticError, RuntimeError) as error:
        raise unusable(
            directory, f"its configuration describes no network: {reason(error)}", "correct config.json"
        ) from error
