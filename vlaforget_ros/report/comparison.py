"""The edit beside other edits of the same request: the same figures of each, and whether they may be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlaforget_ros.unlearning.gates import Verdict


def compare(record: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each edit, this one first; none where there is nothing to compare with.

    Args:
        record: of this edit (edit.json).
        others: of the others.
    """
    if not others:
        return []
    return [_row(edit, record) for edit in (record, *others)]


def _row(edit: Mapping[str, Any], this: Mapping[str, Any]) -> dict[str, Any]:
    metrics = edit["after"]["metrics"]
    return {
        "name": edit["provenance"]["name"],
        "method": edit["provenance"]["method"],
        "this": edit is this,
        "differs": _differences(edit, this),
        **{key: metrics.get(key) for key in ("fc", "fc_low", "fc_high", "rc", "rc_low", "rc_high")},
        **{key: metrics.get(key) for key in ("fad", "rad", "rad_boundary", "repair", "repair_before")},
        "undesired": edit["after"]["undesired"],
        "frames": [metrics["forget_frames"], metrics["retain_frames"]],
        "gates_failed": [gate["name"] for gate in edit["gates"] if gate["verdict"] == Verdict.FAILED],
        "gates_passed": edit["gates_passed"],
        "layers": len(edit["layers"]),
        "adapter_bytes": edit["adapter_bytes"],
        "steps": sum(done.get("steps", 0) for done in edit["rounds"]),
        "seconds": edit["seconds"],
        "remarks": list(edit["remarks"]),
    }


def _differences(edit: Mapping[str, Any], this: Mapping[str, Any]) -> list[str]:
    """What besides the method is not the same, so that the figures are not those of the same task."""
    one, other = edit["provenance"], this["provenance"]
    found = [
        name for name in ("base_digest", "parent_digest", "datasets") if one.get(name) != other.get(name)
    ]
    found += [name for name in ("gates", "budget", "seed") if edit["request"][name] != this["request"][name]]
    return [_NAMES[name] for name in found]


_NAMES = {
    "base_digest": "base",
    "parent_digest": "start",
    "datasets": "data",
    "gates": "limits",
    "budget": "budget",
    "seed": "seed",
}
