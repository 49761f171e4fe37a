"""The recorder's sink: bytes in, a bag that survives a kill out."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from vlaforget_ros.episodes import RECORDED_TOPICS, TOPIC_TYPES, BagSink, read_episodes
from vlaforget_ros.episodes.images import image_message
from vlaforget_ros.episodes.messages import CLOCK, IMAGE, STRING, recorded_qos, relative_topic, typestore
from vlaforget_ros.errors import ErrorCode, UnlearningError

from .conftest import SECOND, STEP, Tape, motion, picture


def text(value: str) -> memoryview:
    return typestore().serialize_cdr(typestore().types[STRING](value), STRING)


def test_what_was_flushed_survives_a_kill(tmp_path: Path) -> None:
    tape = Tape(tmp_path / "live")
    tape.rollout(0, 0)
    for tick in range(20):
        tape.image(SECOND + tick * STEP, picture(tick, 0))
        tape.action(SECOND + tick * STEP, motion(tick, 0))
        if tick == 13:
            tape.sink.flush()
            shutil.copytree(tmp_path / "live", tmp_path / "killed")  # what the disk held at that moment
    report = read_episodes(tmp_path / "killed")
    assert len(report.episodes[0]) == 14
    assert report.count("bag_damaged") == 1
    assert report.count("end_missing") == 1
    assert len(read_episodes(tape.close()).episodes[0]) == 20


def test_it_flushes_by_itself_after_a_while(tmp_path: Path) -> None:
    now = [0.0]
    with BagSink(tmp_path / "bag", flush_every_s=2.0, clock=lambda: now[0]) as sink:
        sink.add_topic("/instruction", STRING)
        file = tmp_path / "bag" / "bag_0.mcap"

        def size_after(seconds: float) -> int:
            now[0] = seconds
            sink.write("/instruction", text("go"), int(seconds * SECOND))
            return file.stat().st_size

        assert size_after(1.9) == 0
        flushed = size_after(2.0)
        assert flushed > 0
        assert size_after(3.9) == flushed
        assert size_after(4.0) > flushed
        # Nothing more is written: what was written goes to the disk all the same.
        before = size_after(5.0)
        now[0] = 6.0
        sink.flush_if_due()
        assert file.stat().st_size > before


def test_every_topic_of_the_graph_can_be_recorded(tmp_path: Path) -> None:
    with BagSink(tmp_path / "bag") as sink:
        for name in RECORDED_TOPICS:
            for number, msgtype in enumerate(TOPIC_TYPES[name]):
                sink.add_topic(f"/arm/{name}" + "/compressed" * number, msgtype)
        sink.add_topic("/clock", CLOCK)
        assert len(sink.topics) == len(RECORDED_TOPICS) + 2
        assert sink.topics["/clock"] == CLOCK


def test_adding_a_topic_twice_is_fine_unless_its_type_changed(tmp_path: Path) -> None:
    with BagSink(tmp_path / "bag") as sink:
        sink.add_topic("/instruction", STRING)
        sink.add_topic("/instruction", STRING)
        with pytest.raises(UnlearningError, match="was std_msgs/msg/String before"):
            sink.add_topic("/instruction", IMAGE)


def test_unknown_type_and_unknown_topic_are_named(tmp_path: Path) -> None:
    with BagSink(tmp_path / "bag") as sink:
        with pytest.raises(UnlearningError, match="did you mean std_msgs/msg/String"):
            sink.add_topic("/instruction", "std_msgs/msg/Strin")
        sink.add_topic("/instruction", STRING)
        with pytest.raises(UnlearningError, match="did you mean /instruction") as caught:
            sink.write("/instructio", text("go"), 1)
    assert caught.value.code is ErrorCode.UNLEARNING_BAG_UNWRITABLE


def test_a_recording_is_never_overwritten(small_bag: Path) -> None:
    before = (small_bag / "bag_0.mcap").read_bytes()
    with pytest.raises(UnlearningError, match="exists already") as caught:
        BagSink(small_bag)
    assert caught.value.code is ErrorCode.UNLEARNING_BAG_UNWRITABLE
    assert (small_bag / "bag_0.mcap").read_bytes() == before


def test_a_closed_bag_takes_no_more(tmp_path: Path) -> None:
    sink = BagSink(tmp_path / "bag")
    sink.add_topic("/instruction", STRING)
    sink.close()
    sink.close()
    sink.flush()
    with pytest.raises(UnlearningError, match="is closed"):
        sink.write("/instruction", text("go"), 1)


def test_a_full_disk_is_the_coded_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = BagSink(tmp_path / "bag", flush_every_s=0)
    sink.add_topic("/instruction", STRING)
    sink.write("/instruction", text("go"), 1)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vlaforget_ros.episodes.storage.storages.os.fsync", full)
    with pytest.raises(UnlearningError, match="No space left") as caught:
        sink.flush()
    assert caught.value.code is ErrorCode.UNLEARNING_BAG_UNWRITABLE
    monkeypatch.undo()
    sink.close()


def test_many_threads_may_write(tmp_path: Path) -> None:
    data = typestore().serialize_cdr(image_message(picture(0, 0), 0), IMAGE)
    with BagSink(tmp_path / "bag", flush_every_s=1e-9) as sink:
        sink.add_topic("/image", IMAGE)

        def record() -> None:
            for _ in range(50):
                sink.write("/image", data, SECOND)

        threads = [threading.Thread(target=record) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sink.messages == 200


@pytest.mark.parametrize(
    ("topic", "name"),
    [
        ("/image", "image"),
        ("/arm/safety/violation", "safety/violation"),
        ("/violation", ""),
        ("/myimage", ""),
        ("image", "image"),
    ],
)
def test_topics_are_known_by_their_last_parts(topic: str, name: str) -> None:
    assert relative_topic(topic) == name


def test_playback_offers_the_live_graphs_qos() -> None:
    assert recorded_qos("/arm/rollout").durability.name == "TRANSIENT_LOCAL"
    assert recorded_qos("/image").reliability.name == "BEST_EFFORT"
    assert recorded_qos("/safety/violation").depth == 100
