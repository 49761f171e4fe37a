"""The Debian and Ubuntu packages that are needed: found out, and installed where that is possible."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path


class SetUpError(Exception):
    """Set-up cannot go on; the message says what to do."""


def has_library(name: str) -> bool:
    """True if the dynamic linker finds the shared library `name`."""
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def missing_packages() -> list[str]:
    """Names of the apt packages whose content is not there. Looks for the content, not for the package."""
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    present = {
        "cmake": shutil.which("cmake") is not None,
        "g++": shutil.which("g++") is not None,
        "make": shutil.which("make") is not None,
        f"{python}-venv": importlib.util.find_spec("ensurepip") is not None,
        f"{python}-dev": (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file(),
        # Software rendering for the simulated cell. With another MUJOCO_GL (egl, glfw) it is not used.
        "libosmesa6": os.environ.get("MUJOCO_GL", "osmesa") != "osmesa" or has_library("libOSMesa.so.8"),
    }
    return [package for package, there in present.items() if not there]


def install_command(packages: Sequence[str]) -> str:
    """The command a person would type."""
    return f"apt-get update && apt-get install -y --no-install-recommends {' '.join(packages)}"


def privilege() -> list[str] | None:
    """Words to put before a command to run it as root, or None if that cannot be done without hanging."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") is None:
        return None
    silent = ["sudo", "-n", "true"]
    if subprocess.run(silent, capture_output=True, stdin=subprocess.DEVNULL, check=False).returncode == 0:
        return ["sudo", "-n"]
    # sudo would ask for a password: only where a person can answer.
    return ["sudo"] if sys.stdin is not None and sys.stdin.isatty() else None


def ensure() -> None:
    """Installs what is missing.

    Raises:
        SetUpError: root rights are not at hand or apt failed; the message holds the exact command.
    """
    packages = missing_packages()
    if not packages:
        return
    by_hand = f"sudo sh -c '{install_command(packages)}'"
    prefix = privilege()
    if prefix is None or shutil.which("apt-get") is None:
        raise SetUpError(f"system packages are missing. Remedy: {by_hand}")
    print(f"set-up: installing system packages: {' '.join(packages)}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    keep = ["env", "DEBIAN_FRONTEND=noninteractive"]
    for words in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages]):
        stdin = None if prefix == ["sudo"] else subprocess.DEVNULL
        command = [*prefix, *keep, "apt-get", *words]
        if subprocess.run(command, env=environment, stdin=stdin, check=False).returncode != 0:
            raise SetUpError(f"apt-get {words[0]} failed. Remedy: look at the lines above, then: {by_hand}")
    still = missing_packages()
    if still:
        raise SetUpError(
            f"installed, yet not found: {' '.join(still)}. Remedy: check the architecture and release"
        )
