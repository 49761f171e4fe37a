"""A ROS domain of one's own, for a graph that must not hear others on this machine."""

from __future__ import annotations

import fcntl
import os
import random
import tempfile
from functools import cache
from pathlib import Path

# People take the low ones by hand; above 101 the ports of a domain are among those that Linux hands out to anybody
# (https://docs.ros.org/en/rolling/Concepts/Intermediate/About-Domain-ID.html).
_DOMAINS = range(30, 102)


def isolate(environment: dict[str, str] | None = None) -> None:
    """Keep a graph to this machine and away from other graphs, unless the caller chose a domain.

    Args:
        environment: of its processes; this one's by default.
    """
    target = os.environ if environment is None else environment
    target.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    target.setdefault("ROS_DOMAIN_ID", str(own_domain()))


@cache
def own_domain() -> int:
    """The number of a domain that no other process has claimed this way; this process keeps it until it ends.

    Where all are taken, or locks cannot be had, any of them: a graph that perhaps hears another is better than none.
    """
    shuffled = random.SystemRandom().sample(_DOMAINS, len(_DOMAINS))
    return next((number for number in shuffled if _claim(number)), shuffled[0])


def _claim(number: int) -> bool:
    path = Path(tempfile.gettempdir()) / f"vlaforget_ros-domain-{number}.lock"
    try:
        # Never closed, so that the claim lasts as long as the process.
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return False
    return True
