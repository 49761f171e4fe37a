"""Between the wire and the disk: a queue and the thread that empties it into a recording.

Who hears a message stamps it and goes on listening; a disk that stalls for a second costs memory, not messages. The
queue is bounded in bytes: what does not fit is dropped and counted, never without a word.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable

from vlaforget_ros.episodes.recording.recording import Recording
from vlaforget_ros.episodes.recording.ring import Heard
from vlaforget_ros.errors import UnlearningError

_PAUSE_S = 0.25


class Intake:
    """Feeds a recording from its own thread, which it starts.

    Args:
        recording: nobody else calls it until :meth:`close` has returned.
        now_ns: the log time now.
        failed: told of every error, in the intake's thread.
        max_bytes: most bytes that wait.
    """

    def __init__(
        self,
        recording: Recording,
        now_ns: Callable[[], int],
        failed: Callable[[UnlearningError], None],
        max_bytes: int = 256_000_000,
    ) -> None:
        self._recording = recording
        self._now_ns = now_ns
        self._failed = failed
        self._max_bytes = max_bytes
        self._queue: queue.SimpleQueue[Heard | None] = queue.SimpleQueue()
        # One thread counts what goes in, one what comes out: no lock for each message.
        self._put_bytes = 0
        self._taken_bytes = 0
        self.dropped: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._work, name="recording")
        self._thread.start()

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the messages in the queue."""
        return self._put_bytes - self._taken_bytes

    def put(self, message: Heard) -> bool:
        """Hand a message over; False when it had to be dropped. From one thread only."""
        size = len(message.data)
        if self.waiting_bytes + size > self._max_bytes:
            self.dropped[message.topic] += 1
            return False
        self._put_bytes += size
        self._queue.put(message)
        return True

    def close(self) -> None:
        """Write what waits, close the recording, end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while True:
            try:
                message = self._queue.get(timeout=_PAUSE_S)
            except queue.Empty:
                self._attempt(lambda: self._recording.tick(self._now_ns()))
                continue
            if message is None:
                self._attempt(self._recording.close)
                return
            taken = message
            self._attempt(lambda taken=taken: self._recording.hear(taken))  # type: ignore[misc]
            self._taken_bytes += len(message.data)

    def _attempt(self, what: Callable[[], None]) -> None:
        try:
            what()
        except UnlearningError as error:
            self._failed(error)
        except Exception as error:
            # A thread that ends without a word would look like a recording.
            self._failed(self._recording.give_up(error))
