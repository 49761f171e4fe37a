"""Which network a configuration is of."""

from __future__ import annotations

from vlaforget_ros.policy.config import PolicyConfig
from vlaforget_ros.policy.model import OpenVla
from vlaforget_ros.policy.oft import OpenVlaOft
from vlaforget_ros.policy.pi0 import Pi0Fast


def build(config: PolicyConfig) -> OpenVla:
    """The network of a configuration, with weights as its parts are initialised."""
    if config.fast is not None:
        return Pi0Fast(config)
    return OpenVla(config) if config.oft is None else OpenVlaOft(config)
