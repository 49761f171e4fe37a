"""Which component and which editable layer a tensor or module is of, told by its name alone."""

from __future__ import annotations

import re
from collections.abc import Iterable

from vlaforget_ros.policy import oft_checkpoint

_COMPONENTS = {
    "vision_backbone": "visual",
    "projector": "projector",
    oft_checkpoint.HEAD: "head",
    oft_checkpoint.PROPRIO: "head",
}
_LAYER = re.compile(r"vision_backbone\.\w+\.blocks\.\d+|projector\.\w+|language_model\.model\.layers\.\d+")


def component(name: str) -> str:
    """``visual``, ``projector``, ``language``, or ``head`` of OpenVLA-OFT."""
    return _COMPONENTS.get(name.split(".", 1)[0], "language")


def layers(modules: Iterable[str]) -> tuple[str, ...]:
    """The layers that linear modules belong to, each once, as they come; others (an LM head) stand for themselves."""
    found = (match.group() if (match := _LAYER.match(name)) else name for name in modules)
    return tuple(dict.fromkeys(found))


def components(modules: Iterable[str]) -> tuple[str, ...]:
    """The components of modules, each once, in network order."""
    there = {component(name) for name in modules}
    return tuple(name for name in ("visual", "projector", "language", "head") if name in there)
