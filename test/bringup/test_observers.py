"""Layouts for viewers: they name topics and fields that are really there."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYOUTS = sorted((ROOT / "config" / "foxglove").glob("*.json"))
PATH = re.compile(r"(?P<topic>/[a-z_/]+)(\.(?P<field>[a-z_]+))?")
NUMBERS = {
    "float",
    "double",
    "float32",
    "float64",
    *(f"{sign}int{n}" for sign in ("", "u") for n in (8, 32, 64)),
}
STRINGS = {"string", "boolean"}


def _layout(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def _leaves(node: Any) -> Iterator[str]:
    """Panel ids of a layout tree."""
    if isinstance(node, str):
        yield node
        return
    assert set(node) == {"direction", "first", "second", "splitPercentage"}
    assert node["direction"] in ("row", "column")
    assert 0 < node["splitPercentage"] < 100
    yield from _leaves(node["first"])
    yield from _leaves(node["second"])


def _paths(panel: str, config: dict[str, Any]) -> list[str]:
    """What a panel shows: topics, or fields of them."""
    kind = panel.partition("!")[0]
    if kind in ("Plot", "StateTransitions"):
        assert all(
            entry["enabled"] and entry["timestampMethod"] == "receiveTime" for entry in config["paths"]
        )
        return [entry["value"] for entry in config["paths"]]
    keys: dict[str, tuple[str, ...]] = {
        "Image": ("imageMode", "imageTopic"),
        "RawMessages": ("topicPath",),
    }
    value: Any = config
    for key in keys[kind]:
        value = value[key]
    return [value]


def test_there_is_a_layout_of_a_canary() -> None:
    assert [path.name for path in LAYOUTS] == ["canary.json"]


@pytest.mark.parametrize("path", LAYOUTS, ids=lambda path: path.stem)
def test_a_layout_shows_each_configured_panel_once(path: Path) -> None:
    layout = _layout(path)
    assert set(layout) == {"configById", "globalVariables", "userNodes", "playbackConfig", "layout"}
    shown = list(_leaves(layout["layout"]))
    assert sorted(shown) == sorted(layout["configById"])
    for panel, config in layout["configById"].items():
        assert re.fullmatch(r"[A-Za-z]+![a-z]+", panel)
        assert _paths(panel, config)
        # Foxglove and Lichtblick keep the title under names of their own; the other's is ignored.
        assert config["foxglovePanelTitle"] == config["lichtblickPanelTitle"]


@pytest.mark.ros
@pytest.mark.parametrize("path", LAYOUTS, ids=lambda path: path.stem)
def test_what_a_layout_shows_is_recorded(path: Path) -> None:
    from sensor_msgs.msg import Image

    # The recorder's topics, too, unless it is told others: a panel of another topic stays empty.
    from vlaforget_ros.nodes.topics import TOPICS

    types: dict[str, Any] = {f"/{topic.name}": topic.type for topic in TOPICS}
    for panel, config in _layout(path)["configById"].items():
        kind = panel.partition("!")[0]
        wanted = NUMBERS if kind == "Plot" else NUMBERS | STRINGS
        for value in _paths(panel, config):
            match = PATH.fullmatch(value)
            assert match is not None, value
            message = types[match["topic"]]
            if kind in ("Plot", "StateTransitions"):
                assert message.get_fields_and_field_types()[match["field"]] in wanted, value
            else:
                assert match["field"] is None, value
            assert kind != "Image" or message is Image
