"""The mapping file: what it accepts, and what it says about mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlaforget_ros.episodes.mapped.mapping import parse_mapping, read_mapping
from vlaforget_ros.errors import ErrorCode, UnlearningError

ROOT = Path(__file__).resolve().parents[2]
SMALL = "image: image\naction: {topic: cmd}\ninstruction: go\n"


def refused(text: str, *words: str) -> UnlearningError:
    with pytest.raises(UnlearningError) as caught:
        parse_mapping(text)
    assert caught.value.code is ErrorCode.UNLEARNING_BAD_REQUEST
    assert caught.value.value
    assert caught.value.limit
    assert caught.value.remedy
    for word in words:
        assert word in str(caught.value)
    return caught.value


def test_the_example_is_a_mapping() -> None:
    mapping = read_mapping(ROOT / "config" / "mapping" / "example.yaml")
    assert mapping.action.rotation == 3
    assert mapping.cameras[0].topic == "wrist/image_raw"


def test_short_forms() -> None:
    mapping = parse_mapping(SMALL + "cameras: [/a, b]\n")
    assert mapping.image.topic == "image"
    assert [camera.topic for camera in mapping.cameras] == ["/a", "b"]
    assert (mapping.instruction.text, mapping.instruction.topic) == ("go", "")
    assert mapping.action.fields == ("data",)
    assert parse_mapping(
        "image: i\naction: {topic: a, fields: position}\ninstruction: {topic: t}"
    ).action.fields == ("position",)


def test_mistakes_are_named_with_what_was_meant() -> None:
    refused(SMALL + "tolerance: 3", "tolerance", "did you mean tolerance_s")
    refused("image: i\naction: {topic: a, feilds: [x]}\ninstruction: go", "feilds", "did you mean fields")
    refused("image: i\ninstruction: go", "action", "Field required")
    refused("image: i\naction: {topic: a}\ninstruction: {field: data}", "either `topic` or `text`")
    refused(
        SMALL.replace("{topic: cmd}", "{topic: cmd, gripper: {index: 0, open: 1, close: 1}}"), "same value"
    )
    refused(SMALL + "time: clock", "header", "log")
    refused(SMALL + "cut: {gap_s: -1}", "cut.gap_s")
    refused("[1, 2]", "must have fields", "episodes map")
    refused("image: [", "not YAML")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnlearningError) as caught:
        read_mapping(tmp_path / "none.yaml")
    assert "cannot be read" in str(caught.value)
