"""Whether an edit has room and leaves time: asked before it starts, kept while it runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from vlaforget_ros.bench.random_release import released
from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.policy.options import FILE as OPTIONS
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.room import copied_mb, weights_mb
from vlaforget_ros.policy.shards import Shards
from vlaforget_ros.unlearning.guard import Guard
from vlaforget_ros.unlearning.room import memory_limit, require_room


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with released("small", "cpu", ("open the faucet",), folder=tmp_path_factory.mktemp("room")) as release:
        return release.directory.rename(tmp_path_factory.mktemp("kept") / "base")


@pytest.fixture
def options(folder: Path) -> Path:
    return folder / OPTIONS


def _mapped_share(folder: Path) -> float:
    """Share of a loaded policy's weights [bytes] that lie in mappings of the checkpoint's own files.

    Where the weights lie is a fact; how much memory a process holds beside them changes with its allocator.
    """
    policy = VlaPolicy.load(folder)
    files = [
        [int(bound, 16) for bound in line.split()[0].split("-")]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(".safetensors") and str(folder) in line
    ]
    sizes = {True: 0, False: 0}
    for weight in policy.model.state_dict().values():
        sizes[any(start <= weight.data_ptr() < end for start, end in files)] += weight.nbytes
    return sizes[True] / sum(sizes.values())


def test_weights_are_mapped_from_their_files_unless_they_are_converted(folder: Path, options: Path) -> None:
    stored = Shards.open(folder).bytes / 1e6
    assert copied_mb(folder, "cpu") == 0.0
    assert _mapped_share(folder) > 0.95
    before = options.read_text()
    options.write_text(yaml.safe_dump({**yaml.safe_load(before), "dtype": "bfloat16"}))
    assert copied_mb(folder, "cpu") == pytest.approx(stored / 2, rel=0.01)
    assert _mapped_share(folder) == 0.0
    options.write_text(before)


def test_another_device_needs_a_copy_and_what_is_missing_is_said(folder: Path) -> None:
    stored = Shards.open(folder).bytes / 1e6
    require_room(folder, "cuda", 1e6, lambda device: stored + 1)
    with pytest.raises(UnlearningError, match="free on cuda: 50 MB are missing") as caught:
        require_room(folder, "cuda", 1e6, lambda device: stored - 50)
    assert caught.value.code == ErrorCode.UNLEARNING_OUT_OF_MEMORY
    with pytest.raises(UnlearningError, match=r"in budget\.memory_mb: 20 MB are missing"):
        require_room(folder, "cuda", stored - 20, lambda device: stored + 1)


def test_weights_that_are_mapped_need_no_room_but_count_for_the_budget(folder: Path) -> None:
    stored = Shards.open(folder).bytes / 1e6
    require_room(folder, "cpu", stored + 1, lambda device: 1.0)
    with pytest.raises(UnlearningError, match=r"in budget\.memory_mb: 20 MB are missing") as caught:
        require_room(folder, "cpu", stored - 20, lambda device: 1e6)
    assert caught.value.code == ErrorCode.UNLEARNING_OUT_OF_MEMORY
    assert "mapped ones included" in str(caught.value)


def test_without_a_budget_an_edit_may_hold_a_quarter_of_the_weights_and_four_gigabytes_more(
    folder: Path,
) -> None:
    assert memory_limit(folder, 100.0) == 100.0
    assert memory_limit(folder, None) == 1.25 * Shards.open(folder).bytes / 1e6 + 4096
    require_room(folder, "cpu", None, lambda device: 1.0)


def test_converted_weights_count_as_they_are_held(folder: Path, options: Path) -> None:
    stored, before = Shards.open(folder).bytes / 1e6, options.read_text()
    assert weights_mb(folder) == stored
    options.write_text(yaml.safe_dump({**yaml.safe_load(before), "dtype": "bfloat16"}))
    assert weights_mb(folder) == pytest.approx(stored / 2, rel=0.01)
    options.write_text(before)


class _Time:
    """Passes when somebody naps, or works."""

    def __init__(self) -> None:
        self.now = 0.0
        self.naps: list[float] = []

    def nap(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds


def _guard(time: _Time, share: float, cancelled: list[bool]) -> Guard:
    return Guard(
        100.0,
        1e9,
        lambda: bool(cancelled),
        clock=lambda: time.now,
        memory=lambda: 0.0,
        share=share,
        nap=time.nap,
    )


def test_an_edit_with_a_share_rests_for_the_remainder_of_the_time() -> None:
    time = _Time()
    guard = _guard(time, 0.25, [])
    for _ in range(3):
        time.now += 1.0
        guard.check()
    assert time.now == pytest.approx(12.0)
    assert max(time.naps) <= 0.2
    assert guard.elapsed == pytest.approx(12.0), "rests count for the budget of time"


def test_a_whole_share_never_rests() -> None:
    time = _Time()
    guard = _guard(time, 1.0, [])
    time.now += 5.0
    guard.check()
    assert time.naps == []


def test_a_cancel_ends_the_rest() -> None:
    time, cancelled = _Time(), list[bool]()
    guard = _guard(time, 0.1, cancelled)
    time.now += 10.0
    guard.nap = lambda seconds: (time.nap(seconds), cancelled.append(True))[0]
    with pytest.raises(UnlearningError) as caught:
        guard.check()
    assert caught.value.code == ErrorCode.UNLEARNING_CANCELLED
    assert len(time.naps) == 1
