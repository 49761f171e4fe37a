"""The content of a report as one JSON document, in the order in which people ask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vlaforget_ros import figures
from vlaforget_ros.adapters.lora import LoraWeights
from vlaforget_ros.report import verdict
from vlaforget_ros.report.comparison import compare
from vlaforget_ros.report.material import Material
from vlaforget_ros.report.words import interval, metric_word, show

FORMAT = 1
OFFLINE, CLOSED_LOOP, ATTACKS = "recorded frames", "closed loop", "attacks"
_ORDER = ("fc", "undesired", "repair", "counterfactual", "fad", "rc", "rad", "rad_boundary")


def build(material: Material, created: str) -> dict[str, Any]:
    """The report as JSON.

    Args:
        material: what there is.
        created: time of the report, ISO 8601.
    """
    record = material.record
    provenance = record["provenance"]
    gates = verdict.together(
        verdict.gate_rows(record["gates"], OFFLINE),
        verdict.gate_rows((material.closed_loop or {}).get("gates", []), CLOSED_LOOP),
        verdict.gate_rows((material.attacks or {}).get("gates", []), ATTACKS),
    )
    return {
        "format": FORMAT,
        "name": provenance["name"],
        "method": provenance["method"],
        "reason": record["request"].get("reason", ""),
        "requester": record["request"].get("requester", ""),
        "created": created,
        "commit": figures.commit(),
        "verdict": verdict.judge(gates),
        "gates": gates,
        "metrics": list(_metrics(record)),
        "comparison": compare(record, material.others),
        "closed_loop": material.closed_loop,
        "attacks": material.attacks,
        "edited": _edited(record, material.weights),
        "rounds": round_rows(record["rounds"]),
        "scores": {r["stage"]: r["scores"] for r in reversed(record["rounds"]) if r["scores"]},
        "curves": {f"{r['stage']} {r['round']}": r["curve"] for r in record["rounds"]},
        "sources": record["sources"],
        "datasets": provenance["datasets"],
        "adapter": material.weights.digest,
        "base_digest": provenance["base_digest"],
        "parent_digest": provenance["parent_digest"],
        "seeds": list(provenance["seeds"]),
        "versions": provenance["versions"],
        "hardware": record["hardware"],
        "request": record["request"],
        "request_sha256": record["request_sha256"],
        "seconds": record["seconds"],
        "peak_mb": record["peak_mb"],
        "remarks": list(record["remarks"]),
        "not_proven": not_proven(material),
    }


def round_rows(rounds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What each round did, without the long lists.

    ``projected``: share of its logged steps in which PCGrad acted, None where none was logged.
    """
    found = []
    for done in rounds:
        curve = done["curve"]
        acted = [bool(point.get("projected")) for point in curve]
        found.append(
            {
                "stage": done["stage"],
                "round": done["round"],
                "layers": done["layers"],
                "kept": done["kept"],
                "reason": done["reason"],
                "steps": done.get("steps", curve[-1]["step"] if curve else 0),
                "complete": done.get("complete", True),
                "projected": sum(acted) / len(acted) if acted else None,
            }
        )
    return found


def not_proven(material: Material) -> list[str]:
    """What none of the figures shows, given which there are."""
    record = material.record
    found = []
    if material.closed_loop is None:
        found.append(
            "How the arm behaves with this adapter: every figure is from recorded frames, none from rollouts. A policy "
            "can pass all of these gates and still not do its task."
        )
    if material.attacks is None:
        found.append(
            "That the behaviour cannot come back: neither relearning, nor quantisation, nor changed triggers or "
            "wordings were tried on this adapter."
        )
    else:
        found.append("That it withstands any other attack than those listed, or more of the same.")
    if not any(
        row["method"] == "corrected" and not row["differs"] for row in compare(record, material.others)
    ):
        found.append(
            "That the forget terms were needed: there is no edit of the same request by `corrected`, which has none."
        )
    if record["provenance"]["parent_digest"] and not record["after"]["metrics"].get("earlier"):
        found.append(
            "That what earlier edits took out stays out: the edit started from an adapter, and no `earlier` was named."
        )
    seeds = ", ".join(str(seed) for seed in record["provenance"]["seeds"])
    return [
        *found,
        f"That another seed gives the same: this is one edit with seed {seeds}. Intervals are over frames or episodes, "
        "not over edits; frames of one episode resemble each other.",
        "Anything about situations that are not in the recordings.",
        "That the weights hold nothing of it: suppression and repair are measured, not erasure.",
        "That the arm is safe: the monitor is software on the robot's computer and no safety-rated device.",
    ]


def _metrics(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    sides = [{**record[when]["metrics"], **record[when]} for when in ("before", "after")]
    frames = {"fc": "forget_frames", "rc": "retain_frames", "rad": "retain_frames"}
    for name in _ORDER:
        values = [side.get(name) for side in sides]
        if values[1] is not None:
            bounds = [(side.get(f"{name}_low"), side.get(f"{name}_high")) for side in sides]
            yield _metric(name, values, bounds, sides[1].get(frames.get(name, "")))
    before, after = (side.get("earlier", {}) for side in sides)
    for name, kept in after.items():
        both = (before[name], kept)
        bounds = [(side["fc_low"], side["fc_high"]) for side in both]
        yield _metric(f"fc_earlier_{name}", [side["fc"] for side in both], bounds, kept["forget_frames"])


def _metric(
    name: str,
    values: Sequence[float | None],
    bounds: Sequence[tuple[float | None, float | None]],
    n: int | None,
) -> dict[str, Any]:
    word = metric_word(name)
    sides = {}
    for when, value, (low, high) in zip(("before", "after"), values, bounds, strict=True):
        shown = {"value": show(value, word.unit), "interval": interval(low, high, word.unit)}
        sides[when] = {"value": value, "low": low, "high": high, "shown": shown}
    return {
        "name": name,
        "title": word.title,
        "meaning": word.meaning,
        "unit": word.unit,
        "better": word.better,
        **sides,
        "n": n,
    }


def _edited(record: Mapping[str, Any], weights: LoraWeights) -> dict[str, Any]:
    return {
        "components": record["components"],
        "layers": record["layers"],
        "modules": len(weights.modules),
        "rank": weights.rank,
        "bytes": record["adapter_bytes"],
        "ranks": {name: module.rank for name, module in weights.modules.items()},
    }
