"""The small policy and sets of every edit."""

from edit_parts import (
    bag,
    base_dir,
    data,
    one_thread,
    parameters,
    policy,
    request_text,
    settings,
)

__all__ = [
    "bag",
    "base_dir",
    "data",
    "one_thread",
    "parameters",
    "policy",
    "request_text",
    "settings",
]
