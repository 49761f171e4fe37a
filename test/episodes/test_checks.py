"""What `check` finds in bags that are not as they should be, and that it finds nothing in good ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vlaforget_ros.episodes import EpisodeWriter, TopicMap
from vlaforget_ros.episodes.catalogue.checks import BagCheck, check_bag
from vlaforget_ros.episodes.catalogue.findings import Finding

from .conftest import SECOND, STEP, Tape, write_rollouts, write_with_a_flipped_bit

PIXELS = np.zeros((4, 4, 3), np.uint8)


def run(tape: Tape, stamps: list[int], rollout: str = "r0", logs: list[int] | None = None) -> None:
    """A whole rollout with frames at these stamps."""
    logs = stamps if logs is None else logs
    tape.rollout(logs[0] - 2, 0, rollout)
    for stamp, log in zip(stamps, logs, strict=True):
        tape.image(stamp, PIXELS, log)
        tape.action(stamp, [0.0], log + 1, rollout)
    tape.outcome(logs[-1] + 2, True, rollout)
    tape.rollout(logs[-1] + 3, 1, rollout)


def only(check: BagCheck, kind: str) -> Finding:
    (finding,) = [finding for finding in check.findings if finding.kind == kind]
    assert finding.consequence
    assert finding.remedy
    return finding


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_nothing_is_found_in_a_good_bag(tmp_path: Path, storage: str) -> None:
    with EpisodeWriter(tmp_path / "bag", storage=storage) as writer:  # type: ignore[arg-type]
        write_rollouts(writer)
    for decode in (False, True):
        found = check_bag(tmp_path / "bag", rate_hz=10.0, decode=decode)
        assert found.findings == ()
        assert (found.episodes, found.frames, found.frames_lost) == (2, 24, 0)
    assert [(fact.topic, len(fact.log_ns)) for fact in found.topics][:2] == [("/image", 24), ("/action", 24)]


def test_gaps_and_messages_without_partner(make_tape: Callable[..., Tape]) -> None:
    tape = make_tape()
    run(tape, [SECOND + STEP * k for k in (0, 1, 2, 3, 7, 8, 9)])
    tape.image(SECOND + STEP * 4, PIXELS)
    found = check_bag(tape.close())
    gap = only(found, "frame_gap")
    assert (gap.place, gap.count) == ("r0", 1)
    assert "0.40 s" in gap.message
    assert "3 frames" in gap.consequence
    assert only(found, "images_without_action").frames_lost == 1
    assert found.frames_lost == 1


def test_rates_are_compared_with_the_nominal_one_or_with_each_other(make_tape: Callable[..., Tape]) -> None:
    tape = make_tape()
    for number, step in enumerate((STEP, STEP, 2 * STEP)):
        run(tape, [SECOND * 10 * (number + 1) + step * k for k in range(10)], f"r{number}")
    path = tape.close()
    assert only(check_bag(path), "rate_off").place == "r2"
    places = [f.place for f in check_bag(path, rate_hz=5.0).findings if f.kind == "rate_off"]
    assert places == ["r0", "r1"]


def test_clocks_that_were_set(make_tape: Callable[..., Tape]) -> None:
    tape = make_tape()
    logs = [SECOND * 100 + STEP * k for k in range(20)]
    run(tape, [log - (50 * SECOND if k < 10 else 47 * SECOND) for k, log in enumerate(logs)], logs=logs)
    found = check_bag(tape.close())
    jumps = [finding for finding in found.findings if finding.kind == "clock_jump"]
    assert [finding.place for finding in jumps] == ["/image"]
    assert jumps[0].count == 1
    assert "3.000 s" in jumps[0].message


def test_stamps_that_go_back(make_tape: Callable[..., Tape]) -> None:
    tape = make_tape("restart")
    run(tape, [SECOND * 5 + STEP * k for k in range(5)], "r0", [SECOND * 100 + STEP * k for k in range(5)])
    run(tape, [SECOND + STEP * k for k in range(5)], "r1", [SECOND * 200 + STEP * k for k in range(5)])
    found = check_bag(tape.close())
    back = only(found, "stamps_backwards")
    assert (back.place, back.count) == ("/image", 1)
    assert "4.400 s" in back.message
    assert [finding.kind for finding in found.findings] == ["stamps_backwards"]


def test_topics_that_were_not_recorded(make_tape: Callable[..., Tape]) -> None:
    tape = make_tape(topics=["/image", "/action", "/rollout"])
    tape.rollout(SECOND, 0)
    found = check_bag(tape.close())
    missing = [finding for finding in found.findings if finding.kind == "topic_missing"]
    assert [finding.place for finding in missing] == ["outcome", "safety/violation"]
    empty = [finding.place for finding in found.findings if finding.kind == "topic_empty"]
    assert empty == ["/image", "/action"]
    assert only(found, "episode_empty").episodes_lost == 1
    assert found.episodes_lost == 1


def test_a_cut_file_whose_metadata_say_what_was_lost(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "bag") as writer:
        for number in range(4):
            write_rollouts(writer, rollouts=1, frames=10, first=number)
            writer.flush()
    file = tmp_path / "bag" / "bag_0.mcap"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    found = check_bag(tmp_path / "bag")
    assert only(found, "bag_damaged").place == ""
    lost = {f.place: f for f in found.findings if f.kind == "topic_incomplete"}
    assert 0 < found.frames < 40
    images = next(fact for fact in found.topics if fact.topic == "/image")
    assert lost["/image"].frames_lost == lost["/image"].count == 40 - len(images.log_ns)
    assert found.frames_lost >= lost["/image"].count


def test_a_corrupt_chunk_and_the_episode_that_it_takes_along(tmp_path: Path) -> None:
    write_with_a_flipped_bit(tmp_path / "bag")
    found = check_bag(tmp_path / "bag")
    damaged = only(found, "episode_damaged")
    assert (damaged.place, damaged.frames_lost, damaged.episodes_lost) == ("r1", 10, 1)
    images = [f for f in found.findings if f.kind == "topic_incomplete" and f.place == "/image"]
    assert [finding.frames_lost for finding in images] == [10]
    assert only(found, "messages_lost").place == ""
    assert (found.episodes, found.frames, found.frames_lost, found.episodes_lost) == (2, 40, 20, 1)
    assert found.checked


def test_a_killed_recording(tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path / "bag")
    write_rollouts(writer, rollouts=1, frames=10)
    writer.begin("r9", "open the faucet")
    writer.frame(PIXELS, np.zeros(2, np.float32))
    writer.flush()
    killed = tmp_path / "killed.mcap"
    killed.write_bytes((tmp_path / "bag" / "bag_0.mcap").read_bytes())
    writer.close()
    found = check_bag(killed)
    assert (found.episodes, found.frames) == (2, 11)
    assert only(found, "bag_damaged").count == 1
    assert only(found, "end_missing").place == "r9"


def test_broken_images_are_found_by_decoding_them(make_tape: Callable[..., Tape]) -> None:
    tape = make_tape()
    run(tape, [SECOND + STEP * k for k in range(5)])
    stamp = SECOND + STEP * 9
    message = tape.sink
    from vlaforget_ros.episodes.images import image_message
    from vlaforget_ros.episodes.messages import IMAGE, typestore

    broken = image_message(PIXELS, stamp)
    broken.height = 400  # type: ignore[attr-defined]
    message.write("/image", typestore().serialize_cdr(broken, IMAGE), stamp)
    tape.action(stamp, [0.0])
    path = tape.close()
    assert only(check_bag(path, decode=True), "images_broken").frames_lost == 1


def test_a_camera_that_a_policy_needs(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "bag") as writer:
        write_rollouts(writer)
    found = check_bag(tmp_path / "bag", TopicMap(cameras=("wrist",)), decode=True)
    assert "wrist" in only(found, "bag_unreadable").message
    assert (found.episodes, found.frames) == (0, 0)


def test_a_bag_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.mcap").write_bytes(b"")
    assert "cannot be read" in only(check_bag(tmp_path / "x.mcap"), "bag_unreadable").message
