"""What a recording writes: everything or incidents, masked or not at all, and how it ends when it must."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlaforget_ros.episodes import read_episodes
from vlaforget_ros.episodes.images import image_message
from vlaforget_ros.episodes.messages import (
    IMAGE,
    POLICY_ACTION,
    ROLLOUT,
    SAFETY_VIOLATION,
    STRING,
    ns_to_stamp,
    typestore,
)
from vlaforget_ros.episodes.recording.intake import Intake
from vlaforget_ros.episodes.recording.privacy import read_masks
from vlaforget_ros.episodes.recording.recording import Recording, Settings
from vlaforget_ros.episodes.recording.ring import Heard
from vlaforget_ros.episodes.storage.bags import Bag
from vlaforget_ros.errors import ErrorCode, UnlearningError

from .conftest import SECOND, STEP, motion, picture

VIOLATION = "/safety/violation"


def message(topic: str, msgtype: str, time_ns: int, *values: Any) -> Heard:
    data = typestore().serialize_cdr(typestore().types[msgtype](*values), msgtype)
    return Heard(topic, msgtype, bytes(data), time_ns, topic in ("/rollout", "/instruction"))


def header(stamp: int) -> Any:
    return typestore().types["std_msgs/msg/Header"](ns_to_stamp(stamp), "")


def image(stamp: int, number: int = 0, topic: str = "/image") -> Heard:
    data = typestore().serialize_cdr(image_message(picture(number, 0), stamp), IMAGE)
    return Heard(topic, IMAGE, bytes(data), stamp)


def tick(number: int, stamp: int, rollout: str) -> list[Heard]:
    values = (header(stamp), ns_to_stamp(stamp), rollout, 0, motion(number, 0), "", "", 1.0, 1.0, 0)
    return [image(stamp, number), message("/action", POLICY_ACTION, stamp + 1, *values)]


def phase(stamp: int, rollout: str, value: int) -> Heard:
    return message("/rollout", ROLLOUT, stamp, header(stamp), rollout, "go", "", 0, value, 0)


def violation(stamp: int, rollout: str) -> Heard:
    values = (header(stamp), rollout, "", "speed/ee", 2, 0.5, 0.25, "m/s", "too fast")
    return message(VIOLATION, SAFETY_VIOLATION, stamp, *values)


def day(rollouts: int = 3, seconds: int = 30) -> list[Heard]:
    """Rollouts one after the other at 10 Hz; each but the first violates at 20 s, the second at 22 s again."""
    found, now = [message("/instruction", STRING, 0, "go")], 0
    for index in range(rollouts):
        name = f"r{index}"
        found.append(phase(now, name, 0))
        for number in range(seconds * 10):
            now += STEP
            found += tick(number % 256, now, name)
            if index and number in ((200, 220) if index == 1 else (200,)):
                found.append(violation(now + 2, name))
        found.append(phase(now + 3, name, 1))
    return found


def incidents(path: Path, **changes: Any) -> Recording:
    settings = Settings(**{"pre_trigger_s": 5.0, "post_trigger_s": 3.0, **changes})
    return Recording(path, settings, triggers=[VIOLATION])


def test_every_incident_is_a_bag_that_can_be_read_alone(tmp_path: Path) -> None:
    recording = incidents(tmp_path / "bags", compression="zstd")
    for heard in day():
        recording.hear(heard)
    recording.close()
    assert [bag.name for bag in recording.bags] == ["incident_1", "incident_2"]
    for bag, rollout, marks, frames in zip(recording.bags, ("r1", "r2"), (2, 1), (101, 81), strict=True):
        report = read_episodes(bag)
        (episode,) = report.episodes
        assert (episode.rollout_id, episode.instruction) == (rollout, "go")
        assert [v.rule for v in episode.violations] == ["speed/ee"] * marks
        # 5 s before the first violation, 3 s after the last one.
        assert len(episode) in (frames, frames - 1)
        assert [p.kind for p in report.problems] == ["end_missing"]
        with Bag(bag) as opened:
            assert "/instruction" in opened.topics
    summary = recording.summary()
    assert summary["incidents"] == 2
    assert summary["topics"][VIOLATION] == 3


def test_without_a_violation_nothing_is_written(tmp_path: Path) -> None:
    recording = incidents(tmp_path / "bags")
    for heard in day(rollouts=1):
        recording.hear(heard)
    recording.close()
    assert not (tmp_path / "bags").exists()


def test_an_incident_ends_when_nothing_more_is_heard(tmp_path: Path) -> None:
    recording = incidents(tmp_path / "bags")
    recording.hear(violation(SECOND, "r0"))
    recording.tick(3 * SECOND)
    assert recording.writing
    recording.tick(5 * SECOND)
    assert not recording.writing
    assert (tmp_path / "bags" / "incident_1" / "metadata.yaml").is_file()


def test_an_earlier_recording_of_incidents_is_never_mixed_with_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "bags").mkdir()
    with pytest.raises(UnlearningError, match="exists already"):
        incidents(tmp_path / "bags")


class Disk:
    """A disk with so many MB, and a clock."""

    def __init__(self) -> None:
        self.free, self.now = 1000.0, 0.0

    def recording(self, path: Path, **changes: Any) -> Recording:
        return Recording(
            path,
            Settings(min_free_mb=500.0, **changes),
            triggers=[VIOLATION],
            free_mb=lambda _: self.free,
            clock=lambda: self.now,
        )


def test_a_disk_that_is_almost_full_refuses_a_recording(tmp_path: Path) -> None:
    disk = Disk()
    disk.free = 499.0
    for changes in ({}, {"pre_trigger_s": 5.0}):
        with pytest.raises(UnlearningError, match="499 MB free") as caught:
            disk.recording(tmp_path / "bag", **changes)
        assert caught.value.code is ErrorCode.UNLEARNING_BAG_UNWRITABLE
        assert "500 MB" in str(caught.value.limit)
        assert caught.value.remedy
    assert not (tmp_path / "bag").exists()


@pytest.mark.parametrize("heard", [True, False])
def test_a_recording_ends_cleanly_before_the_disk_is_full(tmp_path: Path, heard: bool) -> None:
    disk = Disk()
    recording = disk.recording(tmp_path / "bag")
    recording.hear(image(1))
    disk.free, disk.now = 100.0, 5.0
    look = (lambda: recording.hear(image(2))) if heard else (lambda: recording.tick(2))
    with pytest.raises(UnlearningError, match="100 MB free"):
        look()
    assert recording.ended
    recording.hear(image(3))
    with Bag(tmp_path / "bag") as bag:
        assert len(list(bag.messages(["/image"]))) == 1
        assert bag.problems == []
    assert "100 MB free" in recording.summary()["error"]


def test_after_a_full_disk_the_next_incident_is_tried_again(tmp_path: Path) -> None:
    disk = Disk()
    recording = disk.recording(tmp_path / "bags", pre_trigger_s=5.0)
    disk.free = 100.0
    with pytest.raises(UnlearningError):
        recording.hear(violation(SECOND, "r0"))
    disk.free = 1000.0
    recording.hear(violation(2 * SECOND, "r0"))
    recording.close()
    with Bag(recording.bags[-1]) as bag:
        # What could not be written then is still in the ring.
        assert len(list(bag.messages([VIOLATION]))) == 2


def test_images_that_cannot_be_masked_are_not_written_and_counted(tmp_path: Path) -> None:
    warnings: list[str] = []
    recording = Recording(
        tmp_path / "bag",
        masks={"/image": read_masks("i: black 0,0,4,4")["i"], "/wrist": read_masks("i: blur 0,0,99,99")["i"]},
        warn=warnings.append,
    )
    for number in range(3):
        recording.hear(image(number + 1, number + 1))
        recording.hear(image(number + 1, number + 1, "/wrist"))
    recording.close()
    assert recording.summary()["unmasked"] == {"/wrist": 3}
    assert len(warnings) == 1
    assert "not within an image of 8x8" in warnings[0]
    with Bag(tmp_path / "bag") as bag:
        assert set(bag.topics) == {"/image"}
        for found in bag.messages(["/image"]):
            pixels = bag.deserialize(found).data.reshape(8, 8, 3)
            assert not pixels[:4, :4].any()
            assert pixels[4:].all(axis=(0, 1))[2]


def test_a_disk_that_fails_ends_the_recording_and_keeps_what_was_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    recording = Recording(tmp_path / "bag", Settings(split_s=1.0), warn=warnings.append)
    recording.hear(image(1))
    recording.hear(image(2 * SECOND))  # the first file is closed and on the disk

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vlaforget_ros.episodes.storage.storages.os.fsync", full)
    with pytest.raises(UnlearningError, match="No space left"):
        recording.hear(image(4 * SECOND))
    monkeypatch.undo()
    assert recording.ended
    assert "has no end" in warnings[0]
    with Bag(tmp_path / "bag") as bag:
        assert len(list(bag.messages(["/image"]))) >= 1


def test_a_bag_without_an_end_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = Recording(tmp_path / "bag")
    recording.hear(image(1))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vlaforget_ros.episodes.storage.storages.os.fsync", full)
    with pytest.raises(UnlearningError, match="No space left"):
        recording.close()
    assert "No space left" in recording.summary()["error"]


def feed(recording: Recording, messages: list[Heard], **options: Any) -> tuple[Intake, list[UnlearningError]]:
    errors: list[UnlearningError] = []
    intake = Intake(recording, lambda: messages[-1].time_ns, errors.append, **options)
    for heard in messages:
        intake.put(heard)
    intake.close()
    return intake, errors


def test_the_intake_writes_everything_it_was_given(tmp_path: Path) -> None:
    messages = day(rollouts=1)
    recording = Recording(tmp_path / "bag")
    intake, errors = feed(recording, messages)
    assert errors == []
    assert not intake.dropped
    assert recording.summary()["messages"] == len(messages)
    assert len(read_episodes(tmp_path / "bag").episodes[0]) == 300


def test_what_does_not_fit_into_the_queue_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = threading.Event()
    recording = Recording(tmp_path / "bag")
    write: Callable[[Heard], None] = recording.hear
    monkeypatch.setattr(recording, "hear", lambda heard: held.wait(60.0) and write(heard))
    size = len(image(1).data)
    intake = Intake(recording, lambda: 0, lambda error: None, max_bytes=3 * size)
    done = [intake.put(image(number + 1)) for number in range(5)]
    held.set()
    intake.close()
    assert done == [True, True, True, False, False]
    assert intake.dropped == {"/image": 2}
    assert recording.written == {"/image": 3}


def test_an_error_nobody_foresaw_is_told_and_the_bag_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = Recording(tmp_path / "bag", masks={"/wrist": read_masks("i: black 0,0,1,1")["i"]})

    def broken(*_: Any) -> bytes:
        raise ZeroDivisionError("in a library")

    monkeypatch.setattr("vlaforget_ros.episodes.recording.recording.mask_message", broken)
    _, errors = feed(recording, [image(1), image(2, topic="/wrist"), image(3)])
    assert [error.code for error in errors] == [ErrorCode.UNLEARNING_BAG_UNWRITABLE]
    assert "ZeroDivisionError: in a library" in str(errors[0])
    with Bag(tmp_path / "bag") as bag:
        assert [m.time_ns for m in bag.messages(["/image"])] == [1]
        assert bag.problems == []


def test_masks_are_for_the_disk_the_ring_knows_the_picture(tmp_path: Path) -> None:
    recording = Recording(
        tmp_path / "bags",
        Settings(pre_trigger_s=5.0),
        masks={"/image": read_masks("i: black 0,0,8,8")["i"]},
        triggers=[VIOLATION],
    )
    recording.hear(image(SECOND, 9))
    recording.hear(violation(2 * SECOND, "r0"))
    recording.close()
    with Bag(recording.bags[0]) as bag:
        (found,) = [bag.deserialize(m) for m in bag.messages(["/image"])]
    assert not np.asarray(found.data).any()
