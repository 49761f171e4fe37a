"""The questions of ``vlaforget request new``: what the bags hold is offered, what was given is not asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from vlaforget_ros.cli.output import console, errors, plain_table
from vlaforget_ros.cli.request_answers import AFTER_S, BEFORE_S, OUTCOME
from vlaforget_ros.episodes.types import EpisodeInfo
from vlaforget_ros.unlearning.methods import METHODS
from vlaforget_ros.unlearning.methods.vla_forget import VlaForget
from vlaforget_ros.unlearning.proposal import AUTO, NONE, name_for, overview, time_span

ANY, FLAGGED = "any", "flagged"
_FORGETS = (
    "forget_rule",
    "flagged",
    "forget_instruction",
    "forget_object",
    "forget_rollout",
    "forget_outcome",
)


def ask_bags() -> list[Path]:
    """Where the recordings are."""
    return [Path(_ask("Folder with the bags", "runs/bags"))]


def complete(given: Mapping[str, Any], episodes: Sequence[EpisodeInfo]) -> dict[str, Any]:
    """The options, with answers for those that were not given."""
    answers = dict(given)
    seen = overview(episodes)
    _show(seen, episodes)
    if not any(given[name] for name in _FORGETS):
        _ask_what(answers, seen)
    about_violations = answers["forget_rule"] or answers["flagged"]
    if about_violations and not given["whole"]:
        for name, text, usual in (("before", "before", BEFORE_S), ("after", "after", AFTER_S)):
            if given[name] is None:
                answers[name] = typer.prompt(f"Seconds {text} a violation", default=usual, type=float)
    if given["retain_outcome"] is None:
        answers["retain_outcome"] = _choice(
            "Keep episodes with outcome", OUTCOME, ("success", "failure", ANY)
        )
    if not given["retain_instruction"]:
        text = _ask("Keep which instruction (a pattern such as `open *`, or any)", ANY)
        answers["retain_instruction"] = [] if text == ANY else [text]
    _ask_edit(answers)
    return answers


def _ask_what(answers: dict[str, Any], seen: Mapping[str, Mapping[str, int]]) -> None:
    rules = list(seen["rules"])
    if rules:
        offered = ", ".join(f"{number} {rule}" for number, rule in enumerate(rules, start=1))
        text = _ask(f"Forget which rule ({offered}; a pattern; {FLAGGED}; or {ANY})", "1")
        if text.isdigit() and 1 <= int(text) <= len(rules):
            text = rules[int(text) - 1]
        answers["flagged"] = text == FLAGGED
        answers["forget_rule"] = [] if text in (ANY, FLAGGED) else [text]
    asked = bool(answers["forget_rule"] or answers["flagged"])
    instructions = list(seen["instructions"])
    if asked and len(instructions) == 1:
        return
    offered = ", ".join(f"{number} {text}" for number, text in enumerate(instructions, start=1))
    text = _ask(f"Only what was told ({offered}; a pattern; or {ANY})", ANY if asked else "1")
    if text.isdigit() and 1 <= int(text) <= len(instructions):
        text = instructions[int(text) - 1]
    answers["forget_instruction"] = [] if text == ANY else [text]


def _ask_edit(answers: dict[str, Any]) -> None:
    if answers["base"] is None:
        answers["base"] = Path(_ask("Folder of the base checkpoint", "models/tiny"))
    if answers["boundary"] is None:
        asked = (
            f"Boundary set ({AUTO}: near neighbours as the base policy sees them, {NONE}, or an instruction)"
        )
        answers["boundary"] = _ask(asked, AUTO)
    if not answers["counterfactual"]:
        asked = f"Right behaviour from ({AUTO}, {NONE}, clean_successes, transplant, neighbour:INSTRUCTION)"
        answers["counterfactual"] = [text.strip() for text in _ask(asked, AUTO).split(",") if text.strip()]
    if answers["method"] is None:
        answers["method"] = _choice("Method", VlaForget.key, tuple(METHODS))
    if answers["name"] is None:
        forget = {
            "violation_rules": answers["forget_rule"],
            "instructions": answers["forget_instruction"],
            "objects": answers["forget_object"],
            "flagged": answers["flagged"],
        }
        answers["name"] = _ask("Name of the adapter", name_for(forget))
    if answers["reason"] is None:
        answers["reason"] = typer.prompt("What happened", default="", show_default=False)
    if answers["requester"] is None:
        answers["requester"] = typer.prompt("Who asks", default="", show_default=False)
    if answers["out"] is None:
        answers["out"] = Path(_ask("Request file", f"{answers['name']}.yaml"))


def _show(seen: Mapping[str, Mapping[str, int]], episodes: Sequence[EpisodeInfo]) -> None:
    rows = [[what, name, str(count)] for what, counts in seen.items() for name, count in counts.items()]
    title = f"{len(episodes)} rollouts, from {time_span(episodes)}"
    console.print(plain_table(["", "", "episodes"], rows, title))


def _ask(text: str, default: str) -> str:
    answer: str = typer.prompt(text, default=default)
    return answer.strip()


def _choice(text: str, default: str, known: Sequence[str]) -> str:
    while True:
        answer = _ask(f"{text} ({', '.join(known)})", default)
        if answer in known:
            return answer
        errors.print(f"{answer!r} is none of these", highlight=False)
