"""One message of a bag."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
from rosbags.rosbag2.errors import ReaderError


class Rest(NamedTuple):
    """Bytes of a message that were not read yet: of an open file, from where, how many."""

    file: int
    at: int
    size: int


class Message(NamedTuple):
    """One message: topic, its type, log time [ns] and CDR bytes.

    Where only the beginning was asked for, ``rest`` says where the bytes behind ``data`` are as long as the bag is
    open. ``data`` may be a view of a larger block: copy what is kept.
    """

    topic: str
    msgtype: str
    time_ns: int
    data: bytes | memoryview
    rest: Rest | None = None

    @property
    def size(self) -> int:
        """Bytes of the whole message."""
        return len(self.data) + (self.rest.size if self.rest else 0)

    def whole(self) -> Message:
        """The message with all its bytes. Raises ReaderError where the file has become shorter."""
        if self.rest is None:
            return self
        data = np.empty(self.size, dtype=np.uint8)
        self.copy(0, data)
        return self._replace(data=data.data, rest=None)

    def copy(self, start: int, into: np.ndarray) -> None:
        """Fill ``into``, uint8 and contiguous, with the bytes from ``start`` on; they come straight from the file.

        Raises:
            ReaderError: the message is not as long, or the file has become shorter.
        """
        flat = into.reshape(-1)
        here = max(0, min(len(self.data) - start, len(flat)))
        flat[:here] = np.frombuffer(self.data, np.uint8, here, start) if here else 0
        if here == len(flat):
            return
        behind = start + here - len(self.data)
        if self.rest is None or behind + len(flat) - here > self.rest.size:
            raise ReaderError(f"Message of {self.size} bytes is too short.")
        read_into(self.rest.file, self.rest.at + behind, flat[here:])


def read_into(file: int, at: int, flat: np.ndarray) -> None:
    """Fill a one-dimensional uint8 array from an open file. Raises ReaderError where the file ends too early."""
    done = os.preadv(file, [flat.data], at)
    while done < len(flat):
        got = os.preadv(file, [flat[done:].data], at + done)
        if not got:
            raise ReaderError("Truncated message.")
        done += got
