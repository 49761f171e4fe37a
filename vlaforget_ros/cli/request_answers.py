"""From the options of ``vlaforget request new`` to the answers that a request is drawn up from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlaforget_ros.episodes.types import EpisodeInfo
from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.unlearning.methods.vla_forget import VlaForget
from vlaforget_ros.unlearning.proposal import AUTO, Answers, name_for, overview

BEFORE_S, AFTER_S = 3.0, 1.0
OUTCOME = "success"

Given = Mapping[str, Any]


def answers_of(given: Given, episodes: Sequence[EpisodeInfo]) -> Answers:
    """The answers.

    Args:
        given: options by the name of their parameter.
        episodes: what the bags hold, for messages.

    Raises:
        UnlearningError: 300 where nothing says what to forget, or no base is named.
    """
    forget = _forget(given, episodes)
    if given["base"] is None:
        raise _missing("--base is not given", "", "the folder of the base checkpoint", "name it with --base")
    others = {
        "reason": given["reason"] or "",
        "requester": given["requester"] or "",
        "name": given["name"] or name_for(forget),
        "base": str(Path(given["base"])),
        "start_from": _adapter(given["start_from"]),
        "earlier": [str(path.resolve()) for path in given["earlier"]],
        "cameras": [text.strip() for text in given["cameras"].split(",") if text.strip()],
        "state": given["state"],
        "mapping": "" if given["mapping"] is None else str(given["mapping"]),
        "method": given["method"] or VlaForget.key,
        "budget": None if given["seconds"] is None else {"seconds": given["seconds"]},
        "seed": given["seed"],
        "device": given["device"],
    }
    return Answers(
        forget=forget,
        retain=_retain(given),
        boundary=given["boundary"] or AUTO,
        count=given["boundary_count"],
        sources=tuple(given["counterfactual"]) or (AUTO,),
        others=others,
    )


def _adapter(start_from: str) -> str:
    """A folder by its whole path, wherever the request will be read; a reference into the store as it is."""
    return str(Path(start_from).resolve()) if start_from and Path(start_from).is_dir() else start_from


def _forget(given: Given, episodes: Sequence[EpisodeInfo]) -> dict[str, Any]:
    found = {
        "violation_rules": list(given["forget_rule"]),
        "flagged": True if given["flagged"] else None,
        "instructions": list(given["forget_instruction"]),
        "objects": list(given["forget_object"]),
        "adapters": list(given["forget_adapter"]),
        "outcome": given["forget_outcome"],
        "rollout_ids": list(given["forget_rollout"]),
        "since": given["since"],
        "until": given["until"],
    }
    conditions = {name: value for name, value in found.items() if value not in (None, [])}
    if not conditions:
        seen = overview(episodes)
        rules = ", ".join(f"{rule} ({count} episodes)" for rule, count in seen["rules"].items())
        raise _missing(
            "nothing says what to forget",
            "",
            f"rules violated in the bags: {rules or 'none'}",
            "name a rule with --forget-rule, or use --flagged, --forget-instruction, --forget-object, --forget-rollout",
        )
    about_violations = given["forget_rule"] or given["flagged"]
    asked_window = given["before"] is not None or given["after"] is not None
    if not given["whole"] and (about_violations or asked_window):
        conditions["before_s"] = BEFORE_S if given["before"] is None else given["before"]
        conditions["after_s"] = AFTER_S if given["after"] is None else given["after"]
    return conditions


def _retain(given: Given) -> dict[str, Any]:
    found = {
        "outcome": given["retain_outcome"] or OUTCOME,
        "has_violation": False,
        "instructions": list(given["retain_instruction"]),
        "objects": list(given["retain_object"]),
        "adapters": list(given["retain_adapter"]),
        "rollout_ids": list(given["retain_rollout"]),
    }
    return {name: value for name, value in found.items() if value != []}


def _missing(message: str, value: str, limit: str, remedy: str) -> UnlearningError:
    return UnlearningError(
        ErrorCode.UNLEARNING_BAD_REQUEST, message, value=value or None, limit=limit, remedy=remedy
    )
