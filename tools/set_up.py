"""Makes a fresh Debian 12 or Ubuntu 24.04 ready: system packages, .venv, pinned packages, `colcon build`.

Standard library only. Each stage leaves a stamp with the digest of what it depends on, so that a second run
does nothing and takes no time.
Usage: python3 tools/set_up.py [--until packages]
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import system_packages
from system_packages import SetUpError

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
REQUIREMENTS = ("core", "cell", "rounding", "build", "ros", "dev")
# Variables of another ROS installation or virtual environment that would leak into the build.
FOREIGN = (
    "AMENT_PREFIX_PATH",
    "CMAKE_PREFIX_PATH",
    "COLCON_PREFIX_PATH",
    "PYTHONPATH",
    "PYTHONHOME",
    "VIRTUAL_ENV",
)
WHEELS_GUARD = "_ROS_WHEELS_BOOTSTRAP_COMPLETE"  # set by the ROS wheels once they have set LD_LIBRARY_PATH


def say(text: str) -> None:
    print(f"set-up: {text}", flush=True)


def digest(parts: Iterable[bytes]) -> str:
    """SHA-256 over length-prefixed parts."""
    state = hashlib.sha256()
    for part in parts:
        state.update(len(part).to_bytes(8, "big") + part)
    return state.hexdigest()


def clean_environment() -> dict[str, str]:
    """This environment without traces of another ROS installation or virtual environment."""
    environment = {key: value for key, value in os.environ.items() if key not in (*FOREIGN, WHEELS_GUARD)}
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(":") if p] + ["/opt/ros"]
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    kept = [entry for entry in libraries if entry and not entry.startswith(tuple(prefixes))]
    environment["LD_LIBRARY_PATH"] = ":".join(kept)
    environment["PATH"] = f"{VENV / 'bin'}:{environment.get('PATH', os.defpath)}"
    return environment


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command at the root, never waiting for input; output is collected."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**clean_environment(), **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def stamped(stamp: Path, wanted: str) -> bool:
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted


def ensure_venv() -> None:
    """Creates .venv, anew if it belongs to another or a vanished Python."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if PYTHON.exists():
        probe = run([str(PYTHON), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
        if probe.returncode == 0 and probe.stdout.strip() == version:
            return
        say(f"replacing .venv: it is not a working Python {version}")
        shutil.rmtree(VENV)
    say(f"creating .venv with Python {platform.python_version()}")
    result = run([sys.executable, "-m", "venv", str(VENV)])
    if result.returncode != 0:
        shutil.rmtree(VENV, ignore_errors=True)
        raise SetUpError(f"python -m venv failed:\n{result.stdout}")


def wants_cuda() -> bool:
    """True if a CUDA GPU answers; VLAFORGET_TORCH=cpu or cuda decides otherwise."""
    choice = os.environ.get("VLAFORGET_TORCH", "")
    if choice not in ("", "cpu", "cuda"):
        raise SetUpError(f"VLAFORGET_TORCH={choice} is unknown. Remedy: cpu, cuda, or leave it unset")
    if choice:
        return choice == "cuda"
    if shutil.which("nvidia-smi") is None:
        return False
    answer = run(["nvidia-smi", "-L"])
    return answer.returncode == 0 and "GPU 0" in answer.stdout


def pip_install(*arguments: str) -> subprocess.CompletedProcess[str]:
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check"]
    return run([str(PYTHON), "-m", "pip", "install", *quiet, "--constraint", "constraints.txt", *arguments])


def install_torch(cuda: bool) -> None:
    """Installs the pinned torch: its CPU build where no GPU is, if pip's indexes offer one.

    PyPI's own Linux build needs gigabytes of CUDA packages; CPU builds carry the tag `+cpu` and lie on an
    index that has to be in pip's configuration (docs/install.md). Without one the default build works too:
    it is only big.
    """
    pin = next(line for line in entries(ROOT / "constraints.txt") if line.startswith("torch=="))
    if not cuda:
        result = pip_install(f"{pin}+cpu")
        if result.returncode == 0:
            return
        if "No matching distribution" not in result.stdout:
            raise SetUpError(f"pip failed:\n{result.stdout}")
        say(
            f"pip's indexes offer no CPU build of {pin}: taking the default build, "
            "which may bring several GB (docs/install.md)"
        )
    result = pip_install(pin)
    if result.returncode != 0:
        raise SetUpError(f"pip failed:\n{result.stdout}")


def entries(path: Path) -> list[str]:
    """The lines of a package list, without comments and empty lines."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def packages_digest(cuda: bool) -> str:
    """Digest of the package lists (not of their comments), of the Python version and of the kind of torch."""
    lists = [ROOT / "constraints.txt", *(ROOT / "requirements" / f"{name}.txt" for name in REQUIREMENTS)]
    parts = [platform.python_version(), str(cuda)]
    for path in lists:
        parts.append("\n".join(entries(path)))
    return digest(part.encode() for part in parts)


def build_digest() -> str:
    """Digest of place, Python, ROS wheels and build tools: another one means building from nothing."""
    names = {"numpy"}
    for name in ("ros", "build"):
        names.update(entries(ROOT / "requirements" / f"{name}.txt"))
    pins = [line for line in entries(ROOT / "constraints.txt") if line.split("==")[0] in names]
    return digest(part.encode() for part in (str(ROOT), platform.python_version(), *pins))


def ensure_packages() -> None:
    """Installs the pinned packages."""
    cuda = wants_cuda()
    wanted = packages_digest(cuda)
    stamp = VENV / ".packages.stamp"
    if stamped(stamp, wanted):
        return
    if platform.machine() != "x86_64":
        raise SetUpError(
            f"the ROS 2 wheels exist for x86_64 only, this is {platform.machine()}. "
            "Remedy: ROS 2 Jazzy or Kilted from apt and `colcon build` in a workspace (docs/install.md)"
        )
    say("installing pinned packages into .venv (some minutes the first time)")
    stamp.unlink(missing_ok=True)
    install_torch(cuda)
    # One list a call: pip's resolver is quick that way, and the constraints keep them consistent.
    for name in REQUIREMENTS:
        result = pip_install("--requirement", f"requirements/{name}.txt")
        if result.returncode != 0:
            raise SetUpError(f"pip could not install requirements/{name}.txt:\n{result.stdout}")
    stamp.write_text(wanted, encoding="utf-8")


def tree_digest() -> str:
    """Digest of what the build depends on: interfaces and CMake files by content, linked files by name."""
    contents = [ROOT / "CMakeLists.txt", ROOT / "package.xml", ROOT / "activate.sh"]
    for folder in ("cmake", "msg", "srv", "action"):
        contents += sorted(path for path in (ROOT / folder).iterdir() if path.is_file())
    linked: list[str] = []
    for folder in ("vlaforget_ros", "launch", "config", "models"):
        files = (
            path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts
        )
        linked += sorted(str(path.relative_to(ROOT)) for path in files)
    parts = [part for path in contents for part in (path.name.encode(), path.read_bytes())]
    return digest([*parts, "\n".join(linked).encode()])


def ensure_build() -> None:
    """`colcon build --symlink-install`; from nothing if the build tools or the place changed."""
    base = build_digest()
    stamp = ROOT / "build" / ".build.stamp"
    wanted = f"{base}\n{tree_digest()}\n"
    if stamped(stamp, wanted) and (ROOT / "install" / "vlaforget_ros").is_dir():
        return
    if not stamp.is_file() or not stamp.read_text(encoding="utf-8").startswith(base):
        for folder in ("build", "install", "log"):
            shutil.rmtree(ROOT / folder, ignore_errors=True)
    say("colcon build (about a minute the first time)")
    cmake = [
        f"-DCMAKE_PROJECT_INCLUDE={ROOT / 'cmake' / 'wheel_fixes.cmake'}",
        f"-DPython3_EXECUTABLE={PYTHON}",
    ]
    result = run(
        [str(VENV / "bin" / "colcon"), "build", "--symlink-install", "--cmake-args", *cmake],
        AMENT_PREFIX_PATH=str(VENV),
        CMAKE_PREFIX_PATH=str(VENV),
    )
    if result.returncode != 0:
        raise SetUpError(f"colcon build failed:\n{result.stdout}")
    stamp.write_text(wanted, encoding="utf-8")


@contextmanager
def only_one() -> Iterator[None]:
    """One set-up at a time in this tree; a second one waits and then finds nothing to do."""
    with (ROOT / ".set_up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up in this folder")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--until", choices=("packages", "build"), default="build", help="last stage to run")
    until = parser.parse_args().until
    start = time.monotonic()
    try:
        with only_one():
            system_packages.ensure()
            ensure_venv()
            ensure_packages()
            if until == "build":
                ensure_build()
    except SetUpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("set-up: interrupted; the next run goes on from the last finished stage", file=sys.stderr)
        return 130
    if time.monotonic() - start > 5:
        say(f"ready after {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
