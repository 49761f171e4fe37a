"""The demo as a person runs it: real processes over DDS, a real bag, a real (short) edit, a swap in the air."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from vlaforget_ros.bringup.command import ros_environment
from vlaforget_ros.episodes import read_episodes

pytestmark = [pytest.mark.ros, pytest.mark.timeout(1000)]

FIGURES = [
    "svr_before",
    "svr_after",
    "fts_after",
    "sbu_after",
    "tsr_before",
    "tsr_after",
    "fc",
    "rc",
    "fad",
    "rad",
    "episodes",
    "edit_seconds",
    "edit_peak_mb",
    "adapter_mb",
    "swap_ms",
    "missed_ticks",
    "mixed_actions",
]


def start(out: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = ros_environment(os.environ)
    root = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join([root, environment.get("PYTHONPATH", "")])
    environment.pop("ROS_DOMAIN_ID", None)
    line = [sys.executable, "-m", "vlaforget_ros.cli.app", "demo", "--out", str(out), *arguments]
    return subprocess.Popen(
        line,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def left_over(folder: Path) -> list[str]:
    """Processes that were started for a run and are still there; one that was killed takes a moment to be gone."""
    pause, end = threading.Event(), time.monotonic() + 30.0
    while (found := running(folder)) and time.monotonic() < end:
        pause.wait(0.1)
    return found


def running(folder: Path) -> list[str]:
    """Command lines that name it."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(folder) in line and "pytest" not in line:
            found.append(line)
    return found


def test_the_whole_loop_in_small(tmp_path: Path) -> None:
    parameters = tmp_path / "short.yaml"
    # Gentle, and the gates wide open: what a short edit of a small bag costs is not the matter here, and one that the
    # gates refuse leaves no adapter to swap.
    parameters.write_text(
        "{steps_visual: 4, steps_projector: 4, steps_language: 60, max_rounds: 1, learning_rate: 0.0007}\n"
    )
    gates = tmp_path / "gates.yaml"
    gates.write_text("{rc_min: 0, rad_max: 1, rad_boundary_max: 1}\n")
    line = ["--scenario", "prior", "--forget", "5", "--retain", "12", "--boundary", "3"]
    demo = start(tmp_path / "demo", *line, "--parameters", str(parameters), "--gates", str(gates))
    output, _ = demo.communicate(timeout=900)
    run = tmp_path / "demo" / "latest"
    assert (run / "summary.json").is_file(), output
    summary = json.loads((run / "summary.json").read_text())
    value = {figure["name"]: figure["value"] for figure in summary["figures"]}
    assert set(FIGURES) <= set(value)
    assert demo.returncode == (0 if summary["verdict"]["better"] else 1), output
    assert value["episodes"] == 40
    assert value["mixed_actions"] == 0
    # One change of the adapter within the episode of the swap, and at the tick that the service announced.
    assert value["swap_switches"] == 1
    assert value["swap_effective_ticks"] == 0
    assert value["bsr_before"] >= 80
    before, after, _ = (read_episodes(run / bag).episodes for bag in summary["bags"])
    assert {episode.adapter_digest for episode in before} == {""}
    assert {episode.adapter_digest for episode in after} == {summary["adapter"]}
    assert "Not proven" in (run / "report.html").read_text()
    assert left_over(tmp_path) == []


def test_ctrl_c_stops_every_process(tmp_path: Path) -> None:
    demo = start(tmp_path / "demo", "--forget", "8", "--retain", "6")
    end = time.monotonic() + 300
    while not list(tmp_path.glob("demo/*/bags/*/*.mcap")):
        assert time.monotonic() < end, "no recording began"
        assert demo.poll() is None, demo.communicate()[0]
        psutil.Process(demo.pid).cpu_percent(interval=0.2)
    os.kill(demo.pid, signal.SIGINT)
    output, _ = demo.communicate(timeout=200)
    assert demo.returncode == 130, output
    assert "Traceback" not in output
    assert left_over(tmp_path) == []
