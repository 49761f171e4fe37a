"""The comparison as a page of the documentation, made from its JSON so that no figure is typed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlaforget_ros.bench.unlearning.targets import TARGETS, Reached, reached
from vlaforget_ros.bench.unlearning.variants import OURS, PLAIN, REFERENCES

COLUMNS = {
    "fc": ("FC %", 1),
    "fc_offline": ("FC, frames %", 1),
    "svr": ("SVR %", 1),
    "fts": ("FTS %", 1),
    "sbu": ("SBU %", 1),
    "tsr": ("TSR %", 1),
    "rc": ("RC %", 1),
    "rc_offline": ("RC, frames %", 1),
    "tsr_near": ("near %", 1),
    "fad": ("FAD", 3),
    "rad": ("RAD", 3),
    "qrr_int8": ("QRR int8", 3),
    "qrr_int4": ("QRR int4", 3),
    "qrr_nf4": ("QRR nf4", 3),
    "gates_passed": ("gates %", 0),
    "rls": ("RLS", 2),
    "relearn_steps": ("relearnt after", 0),
    "seconds": ("s", 0),
    "peak_mb": ("MB", 0),
}
"""Metric -> (title, decimals), in the order of the tables."""

_BOUNDED = ("fc", "fts", "tsr", "rad")
_GAINS = {
    "fc": "FC",
    "fc_offline": "FC, frames",
    "fts": "FTS",
    "tsr": "TSR",
    "rc_offline": "RC, frames",
    "rad": "RAD",
    "rad_boundary": "RAD near",
    "tsr_near": "TSR near",
    "gates_passed": "gates",
    "relearn_steps": "relearnt after",
}
"""Metric -> title, of the differences that an ablation makes."""


def page(document: Mapping[str, Any], picture: str = "") -> str:
    """Markdown: what was measured, the targets, methods with and without counterfactual data, ablations.

    Args:
        document: of the benchmark.
        picture: path of the plot as seen from the page; "" for none.
    """
    by_name = {figure["name"]: figure for figure in document["figures"]}
    names = [variant["name"] for variant in document["variants"]]
    parts = {variant["name"]: variant["part"] for variant in document["variants"] if variant["part"]}
    plain = [name for name in names if name.endswith(PLAIN)]
    methods = [name for name in names if name not in plain and name not in parts]
    sections = [
        "# The methods side by side",
        "Written by `vlaforget bench unlearning --page FILE` from its JSON; not edited by hand.",
        _setting(document, by_name),
        "## What VLA-Forget must reach",
        _targets(document, by_name),
        "## With counterfactual data",
        "Means over scenarios and seeds of so many edits; in brackets 95 % bootstrap intervals over edits. FC, SVR, "
        "FTS and SBU in the forget situations, TSR and RC on the retained tasks. QRR, RLS and the step of relearning "
        "are of the edits that were attacked (`n` in the JSON); gates: share of the edits that hold all of theirs.",
        _table(by_name, methods),
    ]
    if picture:
        sections.append(f"![forgetting against retention, a point for each method and seed]({picture})")
    if plain:
        sections += ["## Without counterfactual data", _table(by_name, [*REFERENCES, *plain])]
    if parts:
        sections += [
            "## What each part buys",
            "VLA-Forget without the part, minus VLA-Forget, over the same scenarios and seeds: negative FC, FTS, "
            "TSR, RC, gates held and steps until it is relearnt (of those attacked), and positive RAD, mean that the "
            "part is worth something.",
            _ablations(document, by_name, parts),
        ]
    sections += [
        "## Who is as good or better",
        _better(document),
        "VLA-Forget minus the other, in points, over the same episodes, with McNemar's exact p: FTS in the forget "
        "situations, TSR on the retained tasks.",
        _paired(by_name, names),
    ]
    if document["errors"]:
        sections += [
            "## No adapter",
            "\n".join(f"- `{name}`: {why.splitlines()[0]}" for name, why in document["errors"].items()),
        ]
    return "\n\n".join(sections) + "\n"


def _setting(document: Mapping[str, Any], by_name: Mapping[str, Any]) -> str:
    episodes, hardware = document["episodes"], document["hardware"]
    edits = sum(1 for name in by_name if name.startswith(f"fc_{OURS}_") and name.rsplit("_", 1)[1].isdigit())
    commits = ", ".join(f"`{commit[:7]}`" for commit in document["commits"])
    return "\n".join(
        [
            f"- Scenarios: {', '.join(document['scenarios'])}; one bag each, recorded with seeds from "
            f"{document['recording_seed']}, the same for all methods.",
            f"- Each edit: {episodes['forget']} episodes in the forget situations, {episodes['retain']} of each "
            f"retained task, {episodes['near']} of each near neighbour, seeds from {episodes['first_seed']}, the same "
            "for all.",
            f"- Seeds of the edits: {', '.join(map(str, document['seeds']))}; {edits} edits with VLA-Forget and its "
            "ablations. `n` in the JSON says how many stand behind each mean.",
            f"- {', '.join(document['machines'])}; {hardware['cores']} cores, {hardware['memory_gb']} GB, GPU: "
            f"{hardware['gpu'] or 'none'}; {document['threads']} CPU thread(s) an edit; commits {commits}. Seconds "
            "depend on what else a machine did: compare them roughly.",
        ]
    )


def _targets(document: Mapping[str, Any], by_name: Mapping[str, Mapping[str, Any]]) -> str:
    values = {name: figure["value"] for name, figure in by_name.items()}
    scenarios = document["scenarios"]
    rows = []
    for target in TARGETS:
        found = [reached(target, values, scenario, document["seeds"]) for scenario in scenarios]
        side = ">=" if target.at_least else "<="
        known = [one.reached for one in found if one.reached is not None]
        verdict = "not measured" if not known else "yes" if all(known) else "**no**"
        rows.append([target.title, f"{side} {target.limit:g}", *map(_reached, found), verdict])
    return _markdown(["", "limit", *scenarios, "reached"], rows)


def _reached(one: Reached) -> str:
    return "" if one.value is None else f"{one.value:.3g}" if one.value < 1 else f"{one.value:.1f}"


def _table(by_name: Mapping[str, Mapping[str, Any]], variants: Sequence[str]) -> str:
    metrics = [name for name in COLUMNS if any(f"{name}_{variant}" in by_name for variant in variants)]
    rows = [
        [
            f"`{variant}`",
            str(by_name[f"tsr_{variant}"]["n"]) if f"tsr_{variant}" in by_name else "",
            *(_mean(by_name.get(f"{name}_{variant}"), name) for name in metrics),
        ]
        for variant in variants
    ]
    return _markdown(["", "edits", *(COLUMNS[name][0] for name in metrics)], rows)


def _mean(figure: Mapping[str, Any] | None, name: str) -> str:
    if figure is None:
        return ""
    digits = COLUMNS[name][1]
    text = f"{figure['value']:.{digits}f}"
    if name in _BOUNDED and figure["low"] is not None and figure["n"] > 1:
        text += f" [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"
    return text


def _ablations(
    document: Mapping[str, Any], by_name: Mapping[str, Mapping[str, Any]], parts: Mapping[str, str]
) -> str:
    rows = []
    for variant, part in {**parts, f"{OURS}{PLAIN}": "counterfactual data"}.items():
        pairs = [
            (f"{{}}_{variant}_{scenario}_{seed}", f"{{}}_{OURS}_{scenario}_{seed}")
            for scenario in document["scenarios"]
            for seed in document["seeds"]
        ]
        cells = []
        for metric in _GAINS:
            both = [
                by_name[one.format(metric)]["value"] - by_name[other.format(metric)]["value"]
                for one, other in pairs
                if one.format(metric) in by_name and other.format(metric) in by_name
            ]
            digits = 3 if metric.startswith("rad") else 1
            cells.append(f"{sum(both) / len(both):+.{digits}f}" if both else "")
        measured = sum(one.format("tsr") in by_name for one, _ in pairs)
        if measured:
            rows.append([part, *cells, str(measured)])
    return _markdown(["without", *_GAINS.values(), "edits"], rows)


def _better(document: Mapping[str, Any]) -> str:
    lines = [
        "No worse in FC, FTS and TSR, and better in one of them: "
        + f"over all scenarios {_names(document['better_on_both'])}",
        *(f"{name} alone {_names(found)}" for name, found in document["better_in_one"].items()),
    ]
    return "; ".join(lines) + "."


def _paired(by_name: Mapping[str, Mapping[str, Any]], variants: Sequence[str]) -> str:
    rows = []
    for variant in (name for name in variants if f"fts_gain_{name}" in by_name):
        row = [f"`{variant}`"]
        for metric in ("fts", "tsr"):
            gain, p = by_name[f"{metric}_gain_{variant}"], by_name[f"{metric}_p_{variant}"]["value"]
            row += [f"{gain['value']:+.1f}", f"{p:.2g}" if p else "< 0.00001", str(gain["n"])]
        rows.append(row)
    return _markdown(["against", "FTS", "p", "episodes", "TSR", "p", "episodes"], rows)


def _names(found: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in found) or "none"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])
