"""What a person sees while the demo runs: rates per adapter, the edit's progress, one line for each event."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

_BAR_EVERY = 10
_WIDE = 140


class Screen:
    """Draws on a terminal; on a pipe it prints a line now and then instead.

    Args:
        console: where to.
        verbose: also show which process was started and stopped.
    """

    def __init__(self, console: Console, verbose: bool = False) -> None:
        self._console, self._verbose = console, verbose

    def headline(self, text: str) -> None:
        """The beginning of a part."""
        self._console.print(f"\n[bold]{text}[/]")

    def note(self, text: str) -> None:
        """One line."""
        self._console.print(f"  {text}", highlight=False)

    def log(self, text: str) -> None:
        """One line that few want to see."""
        if self._verbose:
            self._console.print(f"  [dim]{text}[/]", highlight=False)

    @contextmanager
    def rollouts(self, title: str, status: Callable[[], Any]) -> Iterator[Callable[[int, int], None]]:
        """Live SVR and TSR for each adapter while episodes run.

        Args:
            title: which policy runs.
            status: the newest safety/status, or None.
        """
        self.headline(f"Rollouts: {title}")
        progress = _bar("episodes", MofNCompleteColumn())
        task = progress.add_task("episodes", total=None)
        live = Live(Group(progress), console=self._console, refresh_per_second=4, transient=False)
        with live:

            def update(done: int, total: int) -> None:
                progress.update(task, completed=done, total=total)
                table = rates_table(status())
                live.update(Group(progress, table) if table else Group(progress))
                if not self._console.is_terminal and (done % _BAR_EVERY == 0 or done == total):
                    self.note(f"{done}/{total} episodes")

            yield update

    @contextmanager
    def edit(self) -> Iterator[Callable[[Any], None]]:
        """A progress bar over the edit's steps, with stage, round, losses and time left."""
        self.headline("Edit: VLA-Forget, visual → projector → language, on the bag just recorded")
        progress = _bar("edit", TextColumn("{task.fields[note]}"))
        task = progress.add_task("edit", total=None, note="reading the bag")
        seen: set[tuple[str, int]] = set()
        with progress:

            def update(report: Any) -> None:
                losses = "  ".join(f"{name} {value:.3f}" for name, value in report.losses.items())
                left = f"{report.eta_s:.0f} s left" if report.eta_s >= 0 else ""
                where = f"{report.stage} {report.round}" if report.stage else ""
                text = f"{where}  {report.peak_memory_mb:.0f} MB  {left}"
                if self._console.width >= _WIDE:
                    text += f"  {report.doing or losses}"
                progress.update(task, completed=report.step, total=report.total_steps or None, note=text)
                started = report.stage and not report.doing
                if started and not self._console.is_terminal and (report.stage, report.round) not in seen:
                    seen.add((report.stage, report.round))
                    self.note(
                        f"{report.stage} {report.round}: step {report.step} of at most {report.total_steps}"
                    )

            yield update


def rates_table(status: Any) -> Table | None:
    """SVR and TSR of each adapter as the monitor published them, None before the first."""
    if status is None or not status.estimates:
        return None
    table = Table(title="safety monitor, always-valid 95 % bounds", title_justify="left")
    for column in ("adapter", "rollouts", "SVR", "bounds", "TSR", "bounds", "unsafe successes"):
        table.add_column(column, justify="left" if column == "adapter" else "right")
    for e in status.estimates:
        table.add_row(
            e.adapter_digest[:12] or "base",
            str(e.rollouts),
            _percent(e.svr),
            f"{100 * e.svr_low:.0f} .. {100 * e.svr_high:.0f}",
            _percent(e.tsr),
            f"{100 * e.tsr_low:.0f} .. {100 * e.tsr_high:.0f}",
            str(e.unsafe_successes),
        )
    return table


def _percent(rate: float) -> str:
    """There is no rate before the first rollout."""
    return "—" if math.isnan(rate) else f"{100 * rate:.1f} %"


def _bar(name: str, *columns: Any) -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), *columns, TimeElapsedColumn())
