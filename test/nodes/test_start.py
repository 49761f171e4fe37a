"""Where ROS is missing, every node and the client say so in one line; nothing else does."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from vlaforget_ros.errors import CellError
from vlaforget_ros.nodes import cell, policy, recorder, safety_monitor, unlearning
from vlaforget_ros.nodes.start import require_ros


@pytest.fixture
def without_ros(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rclpy", None)
    monkeypatch.delitem(sys.modules, "vlaforget_ros.nodes.client", raising=False)


@pytest.mark.parametrize("node", [cell, policy, recorder, safety_monitor, unlearning])
def test_a_node_says_what_is_missing(
    without_ros: None, node: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert node.main([]) == 1  # type: ignore[attr-defined]
    said = capsys.readouterr().err
    assert said.startswith("[602 ROS_MISSING] this command needs ROS 2")
    assert "remedy: run `make build`" in said
    assert said.count("\n") == 1


def test_the_client_and_only_it_needs_ros(without_ros: None) -> None:
    with pytest.raises(CellError) as caught:
        importlib.import_module("vlaforget_ros.nodes.client")
    assert caught.value.code == 602
    core = "vlaforget_ros.nodes.control, vlaforget_ros.nodes.answers, vlaforget_ros.safety.monitor"
    script = f"import sys; sys.modules['rclpy'] = None; import {core}"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_interfaces_that_were_not_generated_are_missing_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rclpy", sys)
    monkeypatch.setitem(sys.modules, "vlaforget_ros.msg", None)
    with pytest.raises(CellError, match=r"value: vlaforget_ros\.msg"):
        require_ros()
