"""What `pip install .` installs: the core, the command, configuration and checkpoints, and no ROS."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = "vlaforget_ros-0.1.0.data/data/share/vlaforget_ros"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: setuptools writes into the tree it builds from."""
    source = tmp_path_factory.mktemp("source") / "tree"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("test/", "benchmarks/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).symlink_to(ROOT / name)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(out), str(source)], check=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_every_module_is_in_the_wheel(names: set[str]) -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "vlaforget_ros").rglob("*.py")}
    assert {name for name in names if name.endswith(".py") and name.startswith("vlaforget_ros/")} == modules
    assert "vlaforget_ros/py.typed" in names


@pytest.mark.parametrize("folder", ["config", "launch", "models", "msg"])
def test_files_beside_the_package_are_in_the_wheel(names: set[str], folder: str) -> None:
    kinds = {".yaml", ".py", ".json", ".safetensors", ".md", ".msg"}
    here = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*") if path.suffix in kinds}
    here = {name for name in here if "__pycache__" not in name}
    there = {name.removeprefix(f"{DATA}/") for name in names if name.startswith(f"{DATA}/{folder}/")}
    assert there == here


def test_the_command_is_named_and_ros_is_no_requirement(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        entry = archive.read("vlaforget_ros-0.1.0.dist-info/entry_points.txt").decode()
        metadata = archive.read("vlaforget_ros-0.1.0.dist-info/METADATA").decode()
    assert "vlaforget = vlaforget_ros.cli.app:main" in entry
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:")]
    assert any("torch" in line for line in required)
    assert not any("ros-" in line or "rclpy" in line for line in required)


def test_an_unpacked_wheel_finds_its_files(wheel: Path, tmp_path: Path) -> None:
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            str(tmp_path),
            str(wheel),
        ],
        check=True,
    )
    code = "from vlaforget_ros import paths; print(paths.config_directory(), paths.source_root())"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == [str(tmp_path / "share" / "vlaforget_ros" / "config"), "None"]
