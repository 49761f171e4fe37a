"""Training batches from a bag beside rosbags' bare iteration over its messages, and the memory that they take."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rosbags.rosbag2 import Reader

from vlaforget_ros.episodes.streaming.frames import BatchStream

BATCH = 64
_CHILD = """
import json, sys
from pathlib import Path
from vlaforget_ros.episodes.streaming.frames import BatchStream
frames = 0
with BatchStream([Path(sys.argv[1])], batch=int(sys.argv[2])) as stream:
    for batch in stream:
        frames += len(batch)
# Of this program alone: what getrusage says may be the parent's.
line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(json.dumps({"frames": frames, "peak_bytes": 1024 * int(line.split()[1])}))
"""


def raw_seconds(bag: Path) -> float:
    """What rosbags takes to open a bag and hand over every message, undecoded."""
    start = time.perf_counter()
    with Reader(bag) as reader:
        for _ in reader.messages():
            pass
    return time.perf_counter() - start


def stream_seconds(bag: Path, frames: int) -> float:
    """What training batches of a bag take, from opening it to the last batch.

    Raises:
        RuntimeError: they have not as many frames as were written.
    """
    start, found = time.perf_counter(), 0
    with BatchStream([bag], batch=BATCH) as stream:
        for batch in stream:
            found += len(batch)
    seconds = time.perf_counter() - start
    if found != frames:
        raise RuntimeError(f"{found} of {frames} frames were read back from {bag}")
    return seconds


def compare(bag: Path, frames: int, pairs: int, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Both in turn, after one round that counts for nothing and fills the page cache.

    Returns:
        ``ratio`` (median over the pairs of raw seconds / stream seconds: 1 is as fast as rosbags alone), ``ratios``,
        ``raw_s`` and ``stream_s`` (medians).
    """
    raw_seconds(bag)
    stream_seconds(bag, frames)
    raw, streamed = [], []
    for pair in range(pairs):
        # Each goes first as often as the other.
        for first in (True, False) if pair % 2 == 0 else (False, True):
            if first:
                raw.append(raw_seconds(bag))
            else:
                streamed.append(stream_seconds(bag, frames))
        progress(pair + 1, pairs)
    ratios = [a / b for a, b in zip(raw, streamed, strict=True)]
    return {
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "raw_s": statistics.median(raw),
        "stream_s": statistics.median(streamed),
    }


def peak_bytes(bag: Path, frames: int) -> int:
    """Largest resident memory of a process that does nothing but stream a bag, interpreter and libraries included.

    Raises:
        RuntimeError: it failed, or has not as many frames as were written.
    """
    command = [sys.executable, "-c", _CHILD, str(bag), str(BATCH)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"streaming {bag} failed: {run.stderr.strip()[-500:]}")
    told = json.loads(run.stdout)
    if told["frames"] != frames:
        raise RuntimeError(f"{told['frames']} of {frames} frames were read back from {bag}")
    return int(told["peak_bytes"])
