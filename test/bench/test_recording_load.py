"""The load for the recorder, a few seconds of it: what was sent, recorded and lost adds up."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.ros


def test_messages_are_counted_and_the_processor_is_measured(tmp_path: Path) -> None:
    from vlaforget_ros.bench.recording_load import run_recording_load

    told: list[tuple[float, float]] = []
    result = run_recording_load(
        3.0, tmp_path, keep=True, progress=lambda done, total: told.append((done, total)), split_mb=20.0
    )
    assert result["sent"]["/image"] == pytest.approx(90, abs=3)
    assert result["sent"]["/joint_states"] == pytest.approx(300, abs=10)
    # Joint states are reliable, whatever else this machine does.
    assert result["recorded"]["/joint_states"] == result["sent"]["/joint_states"]
    # With Fast DDS as it comes one in seven arrives.
    assert 0.9 * result["sent"]["/image"] <= result["recorded"]["/image"] <= result["sent"]["/image"]
    assert result["record_dropped"] == result["sent"]["/image"] - result["recorded"]["/image"]
    assert sum(result["reported_dropped"].values()) <= result["record_dropped"]
    assert 0 < result["record_cpu_percent"] < 200
    assert len(list((tmp_path / "load").glob("load_*.mcap"))) > 1
    assert told
    assert all(total == 3.0 for _, total in told)


def test_a_recorder_that_cannot_record_is_an_error(tmp_path: Path) -> None:
    from vlaforget_ros.bench.recording_load import run_recording_load
    from vlaforget_ros.errors import CellError

    with pytest.raises(CellError, match="ended before its time"):
        run_recording_load(1.0, tmp_path, min_free_mb=1e8)
    assert "310" in (tmp_path / "recorder.log").read_text()
