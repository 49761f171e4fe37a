"""`vlaforget record`: what it says, and how it ends when it cannot record."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vlaforget_ros.bringup.domains import own_domain
from vlaforget_ros.cli.app import app
from vlaforget_ros.cli.record import state_line

SUMMARY: dict[str, Any] = {
    "messages": 12,
    "size_mb": 3.25,
    "dropped": {"/image": 2},
    "unmasked": {},
    "free_mb": 1500.0,
    "incidents": 0,
    "error": "",
}


def test_the_line_says_what_was_written_and_what_was_not() -> None:
    assert state_line(SUMMARY) == "12 messages, 3.2 MB, 2 lost, 1.5 GB free"
    line = state_line({**SUMMARY, "unmasked": {"/image": 3}, "incidents": 1, "error": "disk"})
    assert line.endswith("3 left out, not maskable, 1 incidents, FAILED")


def test_help_teaches() -> None:
    result = CliRunner().invoke(app, ["record", "--help"], env={"COLUMNS": "120"})
    assert result.exit_code == 0
    for text in ("--pre-trigger-s", "--mask", "--split-s", "blur 0,0,200,120", "ros2 bag play"):
        assert text in result.output


def start(*arguments: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "vlaforget_ros.cli.app", "record", *arguments]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(own_domain()))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


@pytest.mark.ros
@pytest.mark.timeout(300)
def test_a_disk_without_room_is_status_1_with_limit_and_remedy(domain: None, tmp_path: Path) -> None:
    process = start(str(tmp_path / "bag"), "--min-free-mb", "1e8")
    _, said = process.communicate(timeout=160)
    assert process.returncode == 1
    assert "min_free_mb" in said
    assert "remedy" in said
    assert not (tmp_path / "bag").exists()


@pytest.mark.ros
@pytest.mark.timeout(300)
def test_ctrl_c_ends_with_a_table_and_json(domain: None, tmp_path: Path) -> None:
    process = start(str(tmp_path / "bag"), "--topics", "/rosout", "--json", str(tmp_path / "told.json"))
    pause = threading.Event()
    while not (tmp_path / "bag").exists():
        assert process.poll() is None, process.communicate()
        pause.wait(0.1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=160)
    assert process.returncode == 0
    assert str(tmp_path / "bag") in out.replace("\n", "")
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["bags"] == [str(tmp_path / "bag")]
    assert told["dropped"] == {}
    assert told["ended"] is True
