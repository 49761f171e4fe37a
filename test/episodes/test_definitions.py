"""Types of a robot's own packages: from the .msg files of its workspace to a bag that defines them."""

from __future__ import annotations

from pathlib import Path

import pytest
from rosbags.rosbag2 import Reader

from vlaforget_ros.episodes import BagSink
from vlaforget_ros.episodes.messages import typestore
from vlaforget_ros.episodes.recording.definitions import learn, sourced


def define(share: Path, name: str, text: str) -> None:
    package, kind = name.split("/")
    folder = share / package / "msg"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{kind}.msg").write_text(text)


def test_a_type_is_learned_with_its_parts_and_can_be_recorded(tmp_path: Path) -> None:
    share = tmp_path / "share"
    define(share, "acme_msgs/Grip", "std_msgs/Header header\nacme_parts/Finger[] fingers\nLatch latch\n")
    define(share, "acme_msgs/Latch", "bool closed\n")
    define(share, "acme_parts/Finger", "float64[3] force\nstring name\n")
    assert learn("acme_msgs/msg/Grip", [tmp_path / "nowhere", share])
    assert learn("acme_msgs/msg/Grip", [])
    assert "acme_parts/msg/Finger" in typestore().fielddefs
    with BagSink(tmp_path / "bag") as sink:
        sink.add_topic("/grip", "acme_msgs/msg/Grip")
    with Reader(tmp_path / "bag") as reader:
        (connection,) = reader.connections
    assert "MSG: acme_parts/Finger" in connection.msgdef.data


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("acme_broken/Part", "acme_missing/Nothing nothing\n"),
        ("acme_broken/Half", "float64[ x\n"),
        ("acme_broken/Bytes", "\x00\x01"),
    ],
)
def test_what_is_not_defined_whole_is_not_learned(tmp_path: Path, name: str, text: str) -> None:
    define(tmp_path, name, text)
    msgtype = name.replace("/", "/msg/")
    assert not learn(msgtype, [tmp_path])
    assert msgtype not in typestore().fielddefs


@pytest.mark.parametrize("name", ["nonsense", "acme/msg/../../Grip", "nobody_msgs/msg/Nothing"])
def test_names_that_are_no_types_are_refused(tmp_path: Path, name: str) -> None:
    assert not learn(name, [tmp_path])


def test_the_environment_says_where_workspaces_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", "/a:/b")
    assert sourced() == [Path("/a/share"), Path("/b/share")]
