"""tools/: stamps, the environment of the build, and what is said when system packages are missing."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    return _load("system_packages")


@pytest.fixture
def set_up(packages: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """tools/set_up.py in an empty tree."""
    module = _load("set_up")
    for folder in ("cmake", "msg", "srv", "action", "vlaforget_ros", "launch", "config", "requirements"):
        (tmp_path / folder).mkdir()
    for name in ("CMakeLists.txt", "package.xml", "activate.sh"):
        (tmp_path / name).write_text(name)
    for name in module.REQUIREMENTS:
        (tmp_path / "requirements" / f"{name}.txt").write_text("# comment\n")
    (tmp_path / "requirements" / "ros.txt").write_text("ros-rclpy\n")
    (tmp_path / "constraints.txt").write_text("# comment\nros-rclpy==9.1.2\nrich==15.0.0\n")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


def test_comments_change_no_stamp_and_pins_do(set_up: ModuleType) -> None:
    constraints = set_up.ROOT / "constraints.txt"
    before = set_up.packages_digest(cuda=False)
    constraints.write_text("# other words\nros-rclpy==9.1.2\nrich==15.0.0\n")
    assert set_up.packages_digest(cuda=False) == before
    assert set_up.packages_digest(cuda=True) != before
    constraints.write_text("ros-rclpy==9.1.2\nrich==15.0.1\n")
    assert set_up.packages_digest(cuda=False) != before


def test_only_ros_and_build_tools_make_the_build_start_anew(set_up: ModuleType) -> None:
    constraints = set_up.ROOT / "constraints.txt"
    before = set_up.build_digest()
    constraints.write_text("ros-rclpy==9.1.2\nrich==15.0.1\n")
    assert set_up.build_digest() == before
    constraints.write_text("ros-rclpy==9.1.3\nrich==15.0.1\n")
    assert set_up.build_digest() != before


def _edit_module(root: Path) -> None:
    (root / "vlaforget_ros" / "old.py").write_text("changed")


def _add_module(root: Path) -> None:
    (root / "vlaforget_ros" / "new.py").touch()


def _edit_message(root: Path) -> None:
    (root / "msg" / "A.msg").write_text("int32 b\n")


def _add_cache(root: Path) -> None:
    (root / "vlaforget_ros" / "__pycache__").mkdir()
    (root / "vlaforget_ros" / "__pycache__" / "old.pyc").touch()


@pytest.mark.parametrize(
    ("change", "rebuilds"),
    [(_edit_module, False), (_add_cache, False), (_add_module, True), (_edit_message, True)],
)
def test_what_makes_the_build_run_again(
    set_up: ModuleType, change: Callable[[Path], None], rebuilds: bool
) -> None:
    (set_up.ROOT / "vlaforget_ros" / "old.py").touch()
    (set_up.ROOT / "msg" / "A.msg").write_text("int32 a\n")
    before = set_up.tree_digest()
    change(set_up.ROOT)
    assert (set_up.tree_digest() != before) == rebuilds


def test_another_ros_installation_does_not_leak_into_the_build(
    set_up: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", "/ws/install")
    monkeypatch.setenv("PYTHONPATH", "/ws/install/lib/python3.12/site-packages")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/ws/install/lib:/opt/ros/jazzy/lib:/usr/local/cuda/lib64")
    monkeypatch.setenv("_ROS_WHEELS_BOOTSTRAP_COMPLETE", "1")
    environment = set_up.clean_environment()
    assert environment["LD_LIBRARY_PATH"] == "/usr/local/cuda/lib64"
    assert not {"AMENT_PREFIX_PATH", "PYTHONPATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE"} & set(environment)
    assert environment["PATH"].startswith(str(set_up.VENV / "bin"))


@pytest.mark.parametrize(("choice", "wanted"), [("cpu", False), ("cuda", True)])
def test_the_kind_of_torch_can_be_chosen(
    set_up: ModuleType, monkeypatch: pytest.MonkeyPatch, choice: str, wanted: bool
) -> None:
    monkeypatch.setenv("VLAFORGET_TORCH", choice)
    assert set_up.wants_cuda() is wanted


def test_an_unknown_kind_of_torch_is_refused(set_up: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLAFORGET_TORCH", "rocm")
    with pytest.raises(set_up.SetUpError, match="cpu, cuda"):
        set_up.wants_cuda()


def test_nothing_is_installed_when_nothing_is_missing(
    packages: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "missing_packages", list)
    monkeypatch.setattr(packages, "privilege", lambda: pytest.fail("asked for rights"))
    packages.ensure()


def test_without_rights_the_exact_command_is_named(
    packages: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "missing_packages", lambda: ["g++", "libosmesa6"])
    monkeypatch.setattr(packages, "privilege", lambda: None)
    with pytest.raises(packages.SetUpError) as caught:
        packages.ensure()
    assert "\n" not in str(caught.value)
    assert "apt-get install -y --no-install-recommends g++ libosmesa6" in str(caught.value)


def test_with_rights_the_packages_are_installed_without_questions(
    packages: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = [["libosmesa6"], []]
    ran: list[list[str]] = []

    def record(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        ran.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(packages, "missing_packages", lambda: missing.pop(0))
    monkeypatch.setattr(packages, "privilege", lambda: ["sudo", "-n"])
    monkeypatch.setattr(packages.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(packages.subprocess, "run", record)
    packages.ensure()
    assert [command[:5] for command in ran] == [
        ["sudo", "-n", "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    ] * 2
    assert ran[0][5] == "update"
    assert ran[1][-1] == "libosmesa6"


def test_a_failed_apt_is_an_error(packages: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "missing_packages", lambda: ["libosmesa6"])
    monkeypatch.setattr(packages, "privilege", list)
    monkeypatch.setattr(packages.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(
        packages.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 100)
    )
    with pytest.raises(packages.SetUpError, match="apt-get update failed"):
        packages.ensure()


def test_a_python_that_does_not_suit_is_refused_with_a_remedy(tmp_path: Path) -> None:
    old = tmp_path / "python3.8"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    found = subprocess.run(
        [str(TOOLS / "find_python.sh")],
        env={**os.environ, "PYTHON": str(old)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1
    assert "Remedy" in found.stderr
