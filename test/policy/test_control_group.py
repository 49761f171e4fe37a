"""Memory that control groups leave a process: files as Linux writes them, in folders of a test."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from vlaforget_ros.policy import control_group, room
from vlaforget_ros.policy.control_group import left_mb

MB = 1_000_000
UNLIMITED_V1 = 9223372036854771712


def group(folder: Path, limit: str, used: int, cached: int = 0, high: str = "max") -> None:
    """A group of version 2."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.high").write_text(f"{high}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    half = cached // 2
    (folder / "memory.stat").write_text(f"anon 5\nfile 7\ninactive_file {half}\nactive_file {half}\n")


def group_v1(folder: Path, limit: int, used: int, cached: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{used}\n")
    # The group's own pages, and below them those of its children as well.
    (folder / "memory.stat").write_text(f"active_file 1\ntotal_active_file {cached}\ntotal_inactive_file 0\n")


@pytest.fixture
def member(tmp_path: Path) -> Path:
    path = tmp_path / "membership"
    path.write_text("0::/\n")
    return path


def test_a_container_of_version_2(tmp_path: Path, member: Path) -> None:
    group(tmp_path, str(800 * MB), 500 * MB, cached=100 * MB)
    assert left_mb(tmp_path, member) == 400
    group(tmp_path, str(800 * MB), 500 * MB, high=str(600 * MB))
    assert left_mb(tmp_path, member) == 100
    group(tmp_path, str(800 * MB), 900 * MB)
    assert left_mb(tmp_path, member) == 0


def test_the_tightest_of_nested_groups_counts(tmp_path: Path, member: Path) -> None:
    member.write_text("0::/system.slice/arm.service\n")
    group(tmp_path / "system.slice", str(1000 * MB), 700 * MB)
    group(tmp_path / "system.slice" / "arm.service", "max", 100 * MB)
    assert left_mb(tmp_path, member) == 300
    group(tmp_path / "system.slice" / "arm.service", str(150 * MB), 100 * MB)
    assert left_mb(tmp_path, member) == 50


def test_version_1_with_the_host_s_path(tmp_path: Path, member: Path) -> None:
    member.write_text("5:cpu,cpuacct:/docker/ab\n4:memory:/docker/ab\n0::/\n")
    group_v1(tmp_path / "memory", 2000 * MB, 1500 * MB, cached=250 * MB)
    assert left_mb(tmp_path, member) == 750
    group_v1(tmp_path / "memory", UNLIMITED_V1, 1500 * MB)
    assert left_mb(tmp_path, member) > 1e9


@pytest.mark.parametrize("said", ["0::/\n", "0::/../..\n", "3:memory:/a\n", ""])
def test_without_a_limit_there_is_none(tmp_path: Path, member: Path, said: str) -> None:
    member.write_text(said)
    assert math.isinf(left_mb(tmp_path, member))
    assert math.isinf(left_mb(tmp_path, tmp_path / "none"))


def test_files_that_cannot_be_read_limit_nothing(tmp_path: Path, member: Path) -> None:
    group(tmp_path, "what", 1)
    assert math.isinf(left_mb(tmp_path, member))
    group(tmp_path, str(10 * MB), 4 * MB)
    (tmp_path / "memory.stat").write_text("one\n")
    assert left_mb(tmp_path, member) == 6
    (tmp_path / "memory.current").unlink()
    assert math.isinf(left_mb(tmp_path, member))


def test_free_memory_is_at_most_the_container_s(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = room.free_mb("cpu")
    assert machine > 3
    monkeypatch.setattr(control_group, "left_mb", lambda: 3.0)
    assert room.free_mb("cpu") == 3.0
    monkeypatch.setattr(control_group, "left_mb", lambda: math.inf)
    assert room.free_mb("cpu") > 3
