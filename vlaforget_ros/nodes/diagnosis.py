"""What the nodes say on /diagnostics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from vlaforget_ros.safety.events import ArmState, MonitorStatus
from vlaforget_ros.safety.ratebook import RateBook
from vlaforget_ros.safety.rates import Interval

MONITOR, CANARY, RECORDER = "safety monitor", "canary", "recorder"
WINDOW = 50
"""Rollouts of each adapter that the newest rates are of."""

_LEVELS = {
    ArmState.NOMINAL: DiagnosticStatus.OK,
    ArmState.SLOWED: DiagnosticStatus.WARN,
    ArmState.STOPPED: DiagnosticStatus.ERROR,
}


def status_name(namespace: str, what: str) -> str:
    """Name of a status: aggregators tell statuses apart by name alone, so it says which arm it is of.

    Args:
        namespace: of the arm, "/" for none.
        what: :data:`MONITOR`, :data:`CANARY` or :data:`RECORDER`.
    """
    arm = namespace.strip("/")
    return f"vlaforget: {arm}: {what}" if arm else f"vlaforget: {what}"


def breakdown_values(book: RateBook) -> tuple[KeyValue, ...]:
    """Rates by rule and by severity, and those of the newest rollouts, with exact intervals."""
    return tuple(KeyValue(key=key, value=value) for key, value in _parts(book))


def monitor_status(status: MonitorStatus, namespace: str, parts: Iterable[KeyValue]) -> DiagnosticStatus:
    """State, reason and counts of each adapter.

    Args:
        status: of the monitor.
        namespace: of the arm.
        parts: of :func:`breakdown_values`.
    """
    entry = DiagnosticStatus(level=_LEVELS[status.state], name=status_name(namespace, MONITOR))
    entry.message = status.reason or "nominal"
    entry.hardware_id = namespace
    for e in status.estimates:
        name = e.adapter_digest[:12] or "base"
        for count in ("rollouts", "violated", "succeeded"):
            entry.values.append(KeyValue(key=f"{name} {count}", value=str(getattr(e, count))))
    entry.values.extend(parts)
    return entry


def _parts(book: RateBook) -> Iterator[tuple[str, str]]:
    for one in book.breakdown():
        name = one.adapter_digest[:12] or "base"
        for rule, rate in one.by_rule.items():
            yield f"{name} broke {rule}", _text(rate)
        for severity, rate in one.by_severity.items():
            if rate.estimate > 0.0:
                yield f"{name} worst {severity.lower()}", _text(rate)
    for one in book.breakdown(last=WINDOW):
        if one.rollouts:
            name = f"{one.adapter_digest[:12] or 'base'} last {one.rollouts}"
            yield f"{name} SVR", _text(one.svr)
            yield f"{name} TSR", _text(one.tsr)


def _text(rate: Interval) -> str:
    return f"{rate.estimate:.3f} ({rate.low:.3f}..{rate.high:.3f})"
