"""One message of a bag."""

from __future__ import annotations

from typing import NamedTuple


class Message(NamedTuple):
    """One message: topic, its type, log time [ns] and CDR bytes.

    The bytes may be a view of a larger block: copy what is kept. ``missing`` counts those at the end that were not
    read because only the beginning was asked for.
    """

    topic: str
    msgtype: str
    time_ns: int
    data: bytes | memoryview
    missing: int = 0
