"""Events of a replay as a bag: topic safety/violation, so that other tools show them beside the recording."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vlaforget_ros.episodes.messages import SAFETY_VIOLATION, ns_to_stamp, typestore
from vlaforget_ros.episodes.storage.sink import BagSink
from vlaforget_ros.safety.events import Event
from vlaforget_ros.safety.replay import NANOSECONDS, Found


def write(path: Path, found: Sequence[Found], frame: str) -> None:
    """Write events at the time they were seen.

    Args:
        path: folder to create.
        found: events, in order.
        frame: frame of positions, for the headers.

    Raises:
        UnlearningError: 310 when the folder exists or cannot be made.
    """
    with BagSink(path, flush_every_s=0) as sink:
        # A bag without violations has the topic all the same: that none were seen is a result, too.
        for topic in {_topic(one) for one in found} or {"/safety/violation"}:
            sink.add_topic(topic, SAFETY_VIOLATION)
        for one in found:
            sink.write(_topic(one), _serialized(one.event, frame), one.time_ns)


def _topic(found: Found) -> str:
    return f"/{found.namespace}/safety/violation".replace("//", "/")


def _serialized(event: Event, frame: str) -> memoryview | bytes:
    types = typestore().types
    header = types["std_msgs/msg/Header"](ns_to_stamp(round(event.stamp_s * NANOSECONDS)), frame)
    message = types[SAFETY_VIOLATION](
        header=header,
        rollout_id=event.rollout_id,
        adapter_digest=event.adapter_digest,
        rule=event.rule,
        severity=int(event.severity),
        value=event.value,
        limit=event.limit,
        unit=event.unit,
        message=event.message,
    )
    return typestore().serialize_cdr(message, SAFETY_VIOLATION)
