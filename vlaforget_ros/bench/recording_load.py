"""A camera of 640x480 at 30 Hz and joints at 100 Hz against the recorder node: what is lost, what it takes.

Publisher and recorder are processes of their own that talk over DDS. Every message has a number, and the bag is
counted afterwards.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import yaml

from vlaforget_ros.bringup.domains import isolate
from vlaforget_ros.bringup.middleware import image_profiles
from vlaforget_ros.episodes.storage.bags import Bag
from vlaforget_ros.errors import CellError, ErrorCode

TOPICS = ("/image", "/joint_states")
_LOOK_S = 0.25
_GRACE_S = 120.0
# CDR: the number lies in frame_id, behind encapsulation, stamp and length.
_NUMBER = slice(16, 24)

Progress = Callable[[float, float], None]


def run_recording_load(
    seconds: float,
    out: Path,
    *,
    storage: str = "mcap",
    compression: str = "none",
    tuned: bool = True,
    keep: bool = False,
    progress: Progress = lambda done, all_of_it: None,
    **parameters: Any,
) -> dict[str, Any]:
    """Record the load and count.

    Args:
        seconds: how long is published [s].
        out: folder for bag and logs; it takes 28 MB/s uncompressed.
        storage: of the bag.
        compression: of the bag.
        tuned: give both processes config/fastdds_images.xml, as `vlaforget up` does; with Fast DDS as it comes most
            images of this size are lost before any recorder could hear them.
        keep: leave the bag there.
        progress: told seconds done and all of them.
        parameters: further ones of the recorder node.

    Returns:
        ``record_dropped`` (messages), ``record_cpu_percent`` (of one core, user and system, from the first message
        to the last; nan where nobody looked between them), ``sent`` and ``recorded`` by topic, ``reported_dropped``
        (what the recorder itself noticed), ``peak_mb`` (resident memory), ``size_mb`` of the bag, ``seconds``.

    Raises:
        CellError: 603 when publisher or recorder ended before their time.
    """
    out.mkdir(parents=True, exist_ok=True)
    environment = _environment(tuned)
    bag, told = out / "load", out / "load.json"
    values = {
        "bag": str(bag),
        "storage": storage,
        "compression": compression,
        "autostart": True,
        **parameters,
    }
    node = _recorder(out / "recorder.yaml", values, told)
    cpu_percent, peak_mb, sent = _drive(node, seconds, out, environment, progress)
    recorded = _count(bag)
    result = {
        "record_dropped": sum(sent[topic] - recorded[topic] for topic in TOPICS),
        "record_cpu_percent": cpu_percent,
        "sent": sent,
        "recorded": recorded,
        "reported_dropped": json.loads(told.read_text(encoding="utf-8"))["dropped"],
        "peak_mb": peak_mb,
        "size_mb": sum(part.stat().st_size for part in bag.iterdir()) / 1e6,
        "seconds": seconds,
        "storage": storage,
        "compression": compression,
        "tuned": tuned,
    }
    if not keep:
        shutil.rmtree(bag)
    return result


def _drive(
    node: Sequence[str], seconds: float, out: Path, environment: Mapping[str, str], progress: Progress
) -> tuple[float, float, dict[str, int]]:
    """Run the recorder beside the load: its CPU [percent of a core], its memory [MB], messages sent by topic."""
    load = [sys.executable, "-m", "vlaforget_ros.nodes.camera_load", str(seconds)]
    with (out / "recorder.log").open("wb") as log, (out / "camera.log").open("wb") as camera_log:
        recorder = subprocess.Popen(node, env=environment, stdout=log, stderr=log)
        camera = subprocess.Popen(load, env=environment, stdout=subprocess.PIPE, stderr=camera_log)
        try:
            cpu_percent, peak_mb = _watch(recorder, camera, seconds, progress)
            if recorder.poll() is not None:
                raise _ended(out)
            said, _ = camera.communicate(timeout=_GRACE_S)
            if camera.returncode:
                raise _ended(out)
            recorder.send_signal(signal.SIGINT)
            recorder.wait(timeout=_GRACE_S)
        finally:
            for process in (recorder, camera):
                if process.poll() is None:
                    process.kill()
                    process.wait()
    if recorder.returncode:
        raise _ended(out)
    return cpu_percent, peak_mb, {f"/{topic}": count for topic, count in json.loads(said).items()}


def _environment(tuned: bool) -> dict[str, str]:
    """Of both processes: a domain of their own, and perhaps memory for images."""
    environment = dict(os.environ)
    isolate(environment)
    if tuned:
        environment |= image_profiles(environment)
    return environment


def _recorder(file: Path, values: Mapping[str, Any], told: Path) -> list[str]:
    """Command line of the recorder; its parameters are written into ``file``, its summary will be in ``told``."""
    file.write_text(yaml.safe_dump({"/**": {"ros__parameters": dict(values)}}), encoding="utf-8")
    module = [sys.executable, "-m", "vlaforget_ros.nodes.recorder"]
    return [*module, "--summary", str(told), "--ros-args", "--params-file", str(file)]


def _watch(
    recorder: subprocess.Popen[bytes], camera: subprocess.Popen[bytes], seconds: float, progress: Progress
) -> tuple[float, float]:
    """CPU of the recorder while messages flow [percent of one core], and its peak memory [MB].

    Messages flow from when the bag grows. Start-up (imports, discovery) is not counted: the clock runs from a tenth of
    the load's time on, to its end.
    """
    process, pause = psutil.Process(recorder.pid), threading.Event()
    skipped, begin_s, first = seconds / 10, None, None
    peak, last = 0.0, (time.monotonic(), 0.0)
    flows = True
    while flows:
        # One more look after the end: there may have been none before it.
        flows = camera.poll() is None and recorder.poll() is None
        with contextlib.suppress(psutil.Error):
            used = process.cpu_times()
            now = (time.monotonic(), used.user + used.system)
            peak = max(peak, process.memory_info().rss / 1e6)
            if begin_s is None and process.io_counters().write_bytes > 1_000_000:
                begin_s = now[0]
            if begin_s is not None and now[0] - begin_s <= seconds:
                progress(now[0] - begin_s, seconds)
                if now[0] - begin_s >= skipped:
                    first = first or now
                    last = now
        if flows:
            pause.wait(_LOOK_S)
    if first is None or last[0] <= first[0]:
        return float("nan"), peak
    return 100.0 * (last[1] - first[1]) / (last[0] - first[0]), peak


def _count(bag: Path) -> dict[str, int]:
    """Different numbers recorded, by topic."""
    found: dict[str, set[bytes]] = {topic: set() for topic in TOPICS}
    with Bag(bag) as opened:
        for message in opened.messages(TOPICS):
            found[message.topic].add(bytes(message.data[_NUMBER]))
    return {topic: len(numbers) for topic, numbers in found.items()}


def _ended(out: Path) -> CellError:
    return CellError(
        ErrorCode.PROCESS_FAILED,
        "publisher or recorder of the load ended before its time",
        value=str(out),
        remedy="read recorder.log and camera.log there",
    )
