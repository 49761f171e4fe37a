"""Rows of the comparison: what is kept of a cell, small enough to be committed.

A cell's bags, edit and adapter stay in its working folder. Its row, the metrics and how each episode ended, goes into
a file of JSON lines, so that a comparison of many hours may be run in parts, on machines that keep nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlaforget_ros.adapters.files import replace_file
from vlaforget_ros.bench.unlearning.variants import REFERENCES
from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.unlearning.rates import Outcome

Key = tuple[str, str, int]
"""Variant, scenario and seed of the edit."""


@dataclass(frozen=True)
class Row:
    """One variant on one scenario with one seed.

    Args:
        variant: key of what was compared.
        scenario: key of the planted behaviour.
        seed: of the edit.
        commit: of the code that made the edit.
        machine: its processor; seconds and memory are comparable on one machine only.
        metrics: name -> value, of ``summary.metrics``.
        episodes: how each one ended; none where a row was kept without them, which then takes part in no paired test.
        error: why there is no adapter; None where there is one.
        remarks: of the edit.
    """

    variant: str
    scenario: str
    seed: int
    commit: str
    machine: str
    metrics: Mapping[str, float]
    episodes: tuple[Outcome, ...] = ()
    error: str | None = None
    remarks: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        return self.variant, self.scenario, self.seed

    @property
    def attacked(self) -> bool:
        """Whether quantisation and relearning were measured, as far as there is anything to attack."""
        return self.variant in REFERENCES or self.error is not None or "qrr_int8" in self.metrics

    def after(self, earlier: Row | None) -> Row:
        """This row with what an earlier one of the same edit knows besides, its attacks.

        Base, request, seed and code decide an edit bit for bit on the CPU: run again, it is the same one.
        """
        if earlier is None or earlier.commit != self.commit:
            return self
        return replace(self, metrics={**earlier.metrics, **self.metrics})


def read_rows(path: Path, identity: Mapping[str, Any]) -> dict[Key, Row]:
    """Rows of a file, none where there is no such file.

    Args:
        path: JSON lines; the first says what the rows were measured with.
        identity: what they have to be measured with.

    Raises:
        UnlearningError: 300 for rows of another base or of other episodes, or for a line that is none.
    """
    if not path.is_file():
        return {}
    try:
        first, *lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        rows = [_row(line) for line in lines]
    except (ValueError, KeyError, TypeError) as error:
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAD_REQUEST,
            f"not a file of rows: {error!r}",
            value=str(path),
            limit="one JSON object a line, the first with what was the same for all",
            remedy="restore it from version control, or name a new file",
        ) from error
    if first != identity:
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAD_REQUEST,
            "the rows are of another base or of other episodes",
            value=str(path),
            limit=json.dumps(first),
            remedy="give the same options, or another --rows",
        )
    return {row.key: row for row in rows}


def write_rows(path: Path, identity: Mapping[str, Any], rows: Iterable[Row]) -> None:
    """Write rows, in an order that does not depend on when they were made."""
    listed = sorted(rows, key=lambda row: (row.scenario, row.variant, row.seed))
    lines = [json.dumps(line) for line in (identity, *map(_line, listed))]
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, ("\n".join(lines) + "\n").encode())


def _line(row: Row) -> dict[str, Any]:
    episodes: dict[str, list[list[Any]]] = {}
    for one in row.episodes:
        episodes.setdefault(one.situation, []).append([one.seed, int(one.success), *one.rules])
    metrics = {name: round(value, 4) for name, value in row.metrics.items()}
    line = {"variant": row.variant, "scenario": row.scenario, "seed": row.seed, "commit": row.commit}
    return line | {
        "machine": row.machine,
        "error": row.error,
        "remarks": list(row.remarks),
        "metrics": metrics,
        "episodes": episodes,
    }


def _row(line: Mapping[str, Any]) -> Row:
    episodes = tuple(
        Outcome(situation, int(seed), bool(success), tuple(rules))
        for situation, listed in line["episodes"].items()
        for seed, success, *rules in listed
    )
    who = str(line["variant"]), str(line["scenario"]), int(line["seed"]), str(line["commit"])
    return Row(
        *who, str(line["machine"]), dict(line["metrics"]), episodes, line["error"], tuple(line["remarks"])
    )
