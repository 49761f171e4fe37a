"""The last seconds before something happened: a ring buffer of messages, and the state that held when it begins.

A window cut out of a running robot lacks what was said once and holds since: which rollout runs, what it was told.
Those topics are latched: their newest message is the present state. So the ring keeps, of each latched topic, the
newest message that has left the window: at the window's first moment exactly that was in force.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

_BACK_NS = 1_000_000_000


@dataclass(frozen=True)
class Heard:
    """A message as it came from the wire.

    Attributes:
        topic: full name.
        msgtype: as bags call it.
        data: CDR bytes.
        time_ns: log time, ROS time.
        latched: whether its topic is: the newest message then holds until the next one.
    """

    topic: str
    msgtype: str
    data: bytes
    time_ns: int
    latched: bool = False


class Ring:
    """Keeps the messages of the last moments, in order of arrival.

    Args:
        keep_ns: log time that is kept, back from the newest message.
        max_bytes: most bytes of messages that are kept; the oldest go first.
        holds: whether a latched message still says something when it is older than the window.
    """

    def __init__(
        self, keep_ns: int, max_bytes: int, holds: Callable[[Heard], bool] = lambda message: True
    ) -> None:
        self._keep_ns, self._max_bytes = keep_ns, max_bytes
        self._holds = holds
        self._messages: deque[Heard] = deque()
        self._before: dict[str, Heard] = {}
        self._bytes = 0
        self._newest_ns = 0
        self.cut = 0

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def size_bytes(self) -> int:
        """Bytes of the messages in the ring."""
        return self._bytes

    def advance(self, now_ns: int) -> None:
        """Let what is too old leave.

        A clock that jumps back by more than a second was reset: what was heard before belongs to another time, and
        only the state is kept of it.
        """
        if now_ns < self._newest_ns - _BACK_NS:
            while self._messages:
                self._leave()
            self._newest_ns = now_ns
        self._newest_ns = max(self._newest_ns, now_ns)
        while self._messages and self._messages[0].time_ns < self._newest_ns - self._keep_ns:
            self._leave()

    def add(self, message: Heard) -> None:
        """Take a message in; what is too old or too much leaves.

        ``cut`` counts the messages that left early for the sake of the byte limit.
        """
        self.advance(message.time_ns)
        self._messages.append(message)
        self._bytes += len(message.data)
        while self._bytes > self._max_bytes:
            self.cut += 1
            self._leave()

    def window(self) -> list[Heard]:
        """Everything kept, the state first.

        The state is logged at the moment of the first message: bags then begin there, and `ros2 bag play` does not
        wait for what was long ago. Stamps within the messages are untouched.
        """
        start_ns = self._messages[0].time_ns if self._messages else self._newest_ns
        return [replace(message, time_ns=start_ns) for message in self._before.values()] + list(
            self._messages
        )

    def _leave(self) -> None:
        message = self._messages.popleft()
        self._bytes -= len(message.data)
        if message.latched:
            # The newest goes last, as it was said.
            self._before.pop(message.topic, None)
            if self._holds(message):
                self._before[message.topic] = message


class Incidents:
    """Decides what of a stream of messages is written: the time around each trigger, and nothing else.

    Args:
        ring: what is kept before a trigger.
        after_ns: log time that is written after the newest trigger.
        triggers: whether a message is one.
    """

    def __init__(self, ring: Ring, after_ns: int, triggers: Callable[[Heard], bool]) -> None:
        self._ring = ring
        self._after_ns = after_ns
        self._triggers = triggers
        self._until_ns: int | None = None
        self._newest_ns = 0
        self.count = 0

    @property
    def running(self) -> bool:
        """Whether an incident is being written."""
        return self._until_ns is not None

    def over(self, now_ns: int) -> bool:
        """Whether the running incident has had its time; a clock that was set back ends it as well."""
        if self._until_ns is None:
            return False
        return now_ns > self._until_ns or now_ns < self._newest_ns - _BACK_NS

    def end(self) -> None:
        """The bag of the incident was closed."""
        self._until_ns = None

    def hear(self, message: Heard) -> list[Heard]:
        """What is to be written now, in order: nothing, the message, or all that led to it and it.

        Ask :meth:`over` first, with the message's time: a message behind the end is not the incident's. Every
        message goes on through the ring, so that an incident soon after this one has its own whole story.
        """
        written: list[Heard] = [message] if self.running else []
        if self._triggers(message):
            if not self.running:
                self._ring.advance(message.time_ns)
                written = [*self._ring.window(), message]
                self.count += 1
            self._until_ns = message.time_ns + self._after_ns
        self._newest_ns = message.time_ns
        self._ring.add(message)
        return written
