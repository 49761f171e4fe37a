"""Messages of the graph to a monitor, by topic, as the safety monitor node does it with live ones."""

from __future__ import annotations

from typing import Any

from vlaforget_ros.safety.events import Event
from vlaforget_ros.safety.messages import ENDS, READERS, event_of
from vlaforget_ros.safety.monitor import SafetyMonitor

TOLD = ("rollout", "outcome", "safety/violation")
"""Topics that the monitor hears besides its inputs."""


def feed(monitor: SafetyMonitor, topic: str, message: Any) -> tuple[Event, ...]:
    """Give a monitor one message.

    Args:
        monitor: takes it.
        topic: relative name, an input or one of :data:`TOLD`.
        message: of the topic's type; anything with the same fields.

    Returns:
        The events to publish.
    """
    if topic in READERS:
        return monitor.take(READERS[topic](message))
    if topic == "rollout":
        phase = int(message.phase)
        if phase in ENDS:
            monitor.rollout_ended(str(message.rollout_id), str(message.adapter_digest), ENDS[phase])
        else:
            monitor.rollout_started(str(message.rollout_id), str(message.adapter_digest))
    elif topic == "outcome":
        monitor.outcome(str(message.rollout_id), bool(message.success))
    elif topic == "safety/violation":
        monitor.violation(event_of(message))
    return ()
