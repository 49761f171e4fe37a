"""One request after the other: is what an earlier edit took out still gone after later ones?

Each edit starts from the adapter of the one before (``start_from``), as a robot in the field does. After every edit
all requests so far are measured again, each on its own forget set and against the policy before the first edit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from vlaforget_ros.adapters.lora import LoraWeights
from vlaforget_ros.adapters.peft_format import read_peft, write_peft
from vlaforget_ros.attacks.findings import Findings, Report, quiet
from vlaforget_ros.attacks.outcomes import outcomes, percent
from vlaforget_ros.attacks.trials import TrialSettings
from vlaforget_ros.cell.rollouts import PolicySpec, spread
from vlaforget_ros.cell.rollouts import run as run_episodes
from vlaforget_ros.cell.situations import scenario as known_scenario
from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.figures import Figure
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning.edit import evaluation_of
from vlaforget_ros.unlearning.lora import fold
from vlaforget_ros.unlearning.metrics import OfflineEvaluation
from vlaforget_ros.unlearning.process import CHILD, EditProcess, Progress, edit_command
from vlaforget_ros.unlearning.rates import Rate, bsr
from vlaforget_ros.unlearning.request import Request
from vlaforget_ros.unlearning.sources import gather

Edit = Callable[[Request, Path, Report], Path]
"""Carries out a request in a folder and returns the folder of the adapter (PEFT format)."""


@dataclass(frozen=True)
class Link:
    """One request of the chain.

    Args:
        name: for figures, snake_case.
        request: its ``start_from`` is replaced, except for the first one's.
        scenario: of the simulated cell, for closed loop; "" without.
    """

    name: str
    request: Request
    scenario: str = ""


@dataclass(frozen=True)
class _Measured:
    """What a link is measured by."""

    link: Link
    evaluation: OfflineEvaluation
    before: Rate | None


def attack(
    links: Sequence[Link],
    folder: Path,
    first: LoraWeights | None = None,
    trials: TrialSettings | None = None,
    report: Report = quiet,
    edit: Edit | None = None,
) -> Findings:
    """Carry out requests one after the other.

    Args:
        links: the chain, all of one base.
        folder: for edits and adapters, new.
        first: a finished edit of the first request; None: it is carried out, too.
        trials: how many episodes, on which seeds; only links with a scenario are run in closed loop.
        report: told about the progress.
        edit: how a request is carried out; None is a child process for each.

    Raises:
        UnlearningError: 300 for fewer than two requests or several bases; otherwise as an edit, except that a later
            one of which no stage was kept (304) leaves the adapter as it was and is remarked upon.
    """
    _check(links)
    base = PolicySpec(Path(links[0].request.base))
    adapter: Path | None = None
    measured: list[_Measured] = []
    table: list[dict[str, Any]] = []
    refused: list[str] = []
    for number, link in enumerate(links):
        report("successive requests", number, len(links))
        measured.append(_prepare(link, base, trials, report))
        out = folder / f"{number + 1}-{link.name}"
        if number == 0 and first is not None:
            adapter = _written(first, out)
        else:
            try:
                adapter = (edit or edit_in_child)(_following(link.request, adapter), out, report)
            except UnlearningError as error:
                # What is gone already leaves the next edit nothing to keep: the chain goes on from where it was.
                if error.code != ErrorCode.UNLEARNING_GATE_FAILED or adapter is None:
                    raise
                refused.append(f"{link.name} changed nothing: {error}")
        table += [
            {"after": number + 1, "edit": link.name, **_state(m, base, adapter, trials, report)}
            for m in measured
        ]
    report("successive requests", len(links), len(links))
    details = {"table": table, "refused": refused}
    return Findings(_figures(links, table), details, (), (*_remarks(links, table), *refused))


def edit_in_child(request: Request, out: Path, report: Report) -> Path:
    """An edit in a process of its own, as the unlearning node runs it. Raises its error."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "request.yaml"
    placed = request.model_copy(
        update={
            "base": str(Path(request.base).resolve()),
            "bags": tuple(str(Path(bag).resolve()) for bag in request.bags),
        }
    )
    file.write_text(yaml.safe_dump(placed.model_dump(mode="json"), sort_keys=False))
    command = edit_command(CHILD, file, out / "edit", out / "store", resume=False)
    for event in EditProcess(command, out / "child.log").events():
        if isinstance(event, Progress):
            report(f"edit {request.name}", event.step, event.total_steps)
    return out / "edit" / "adapter"


def _following(request: Request, adapter: Path | None) -> Request:
    return request if adapter is None else request.model_copy(update={"start_from": str(adapter.resolve())})


def _written(weights: LoraWeights, out: Path) -> Path:
    folder = out / "adapter"
    folder.mkdir(parents=True, exist_ok=True)
    write_peft(weights, folder)
    return folder


def _prepare(link: Link, base: PolicySpec, trials: TrialSettings | None, report: Report) -> _Measured:
    policy = VlaPolicy.load(base.base, link.request.device)
    data = gather(link.request, policy).data
    gates, seed = link.request.gates, link.request.seed
    _, evaluation = evaluation_of(policy, data, link.request.parameters, gates.tau_retain, seed)
    return _Measured(link, evaluation, _closed(link, base, trials, report))


def _state(
    measured: _Measured, base: PolicySpec, adapter: Path, trials: TrialSettings | None, report: Report
) -> dict[str, Any]:
    """How one request fares under an adapter."""
    policy = VlaPolicy.load(base.base, measured.link.request.device)
    fold(policy.model, read_peft(adapter))
    found = measured.evaluation.measure(policy)
    row: dict[str, Any] = {
        "request": measured.link.name,
        "fc": found.fc,
        "fc_low": found.fc_low,
        "fc_high": found.fc_high,
        "frames": found.forget_frames,
        "rc": found.rc,
        "rad": found.rad,
    }
    after = _closed(measured.link, replace(base, adapter=adapter), trials, report)
    if after is not None and measured.before is not None:
        row |= {
            "bsr_before": 100 * measured.before.value,
            "bsr": 100 * after.value,
            "bsr_low": 100 * after.low,
            "bsr_high": 100 * after.high,
            "episodes": after.n,
        }
    return row


def _closed(link: Link, spec: PolicySpec, trials: TrialSettings | None, report: Report) -> Rate | None:
    if trials is None or not link.scenario:
        return None
    chosen = known_scenario(link.scenario)
    jobs = spread(chosen.forget, trials.episodes, trials.first_seed)
    found = run_episodes(
        spec,
        jobs,
        trials.processes,
        progress=lambda done, total: report(f"{link.name}: episodes", done, total),
    )
    return bsr(outcomes(found), chosen.rule)


def _figures(links: Sequence[Link], table: list[dict[str, Any]]) -> tuple[Figure, ...]:
    figures: list[Figure] = []
    for row in table:
        name = f"{row['request']}_after_{row['after']}"
        fc = Rate(row["fc"] / 100, row["fc_low"] / 100, row["fc_high"] / 100, row["frames"])
        figures.append(percent(f"fc_{name}", fc))
        if "bsr" in row:
            rate = Rate(row["bsr"] / 100, row["bsr_low"] / 100, row["bsr_high"] / 100, row["episodes"])
            figures.append(percent(f"bsr_{name}", rate))
    for link in links[:-1]:
        own = [row for row in table if row["request"] == link.name]
        figures.append(
            Figure(
                f"fc_lost_{link.name}", round(own[0]["fc"] - own[-1]["fc"], 2), "percent", own[-1]["frames"]
            )
        )
    return tuple(figures)


def _remarks(links: Sequence[Link], table: list[dict[str, Any]]) -> tuple[str, ...]:
    found = [f"{len(links)} requests: {', '.join(link.name for link in links)}"]
    low = [
        f"{row['request']} after {row['edit']}: FC {row['fc']:.1f} %"
        for row in table
        for link in links
        if link.name == row["request"] and row["fc"] < link.request.gates.fc_min
    ]
    return (*found, *(f"below fc_min: {text}" for text in low))


def _check(links: Sequence[Link]) -> None:
    if len(links) < 2 or len({link.name for link in links}) < len(links):
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAD_REQUEST,
            "successive requests need at least two, each with a name of its own",
            value=", ".join(link.name for link in links),
            limit="two or more",
            remedy="give further request files",
        )
    bases = sorted({str(Path(link.request.base).resolve()) for link in links})
    if len(bases) > 1:
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAD_REQUEST,
            "successive requests must have one base",
            value=", ".join(bases),
            limit=bases[0],
            remedy="give requests of the policy that is attacked",
        )
