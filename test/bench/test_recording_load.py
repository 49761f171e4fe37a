"""The load for the recorder, a few seconds of it: what was sent, recorded and lost adds up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vlaforget_ros.bringup.middleware import image_profiles

pytestmark = [pytest.mark.ros, pytest.mark.timeout(400)]


def test_messages_are_counted_and_the_processor_is_measured(tmp_path: Path) -> None:
    from vlaforget_ros.bench.recording_load import run_recording_load

    told: list[tuple[float, float]] = []
    result = run_recording_load(
        3.0, tmp_path, keep=True, progress=lambda done, total: told.append((done, total)), split_mb=2.0
    )
    sent, recorded = result["sent"], result["recorded"]
    # How much a machine can send, and how much of it arrives, is what the benchmark is for.
    assert 0 < recorded["/image"] <= sent["/image"] <= 93
    assert 0 < recorded["/joint_states"] <= sent["/joint_states"] <= 310
    assert result["record_dropped"] == sum(sent.values()) - sum(recorded.values())
    assert sum(result["reported_dropped"].values()) <= result["record_dropped"]
    # nan: there was no look while messages flowed.
    assert not result["record_cpu_percent"] <= 0
    assert result["peak_mb"] > 0
    assert len(list((tmp_path / "load").glob("load_*.mcap"))) > 1
    assert told
    assert all(total == 3.0 for _, total in told)


def test_both_processes_have_memory_for_images_unless_it_is_refused() -> None:
    # With Fast DDS as it comes one image in seven arrives.
    from vlaforget_ros.bench.recording_load import _environment

    assert set(_environment(True)) - set(_environment(False)) == set(image_profiles(os.environ))


def test_a_recorder_that_cannot_record_is_an_error(tmp_path: Path) -> None:
    from vlaforget_ros.bench.recording_load import run_recording_load
    from vlaforget_ros.errors import CellError

    with pytest.raises(CellError, match="ended before its time"):
        run_recording_load(1.0, tmp_path, min_free_mb=1e8)
    assert "310" in (tmp_path / "recorder.log").read_text()
