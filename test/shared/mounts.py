"""Scripts in processes of their own, with mounts of their own where the system allows that."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def python(script: str, *arguments: object, before: tuple[str, ...] = ()) -> str:
    """What a script prints; the test fails where the script does."""
    command = [*before, sys.executable, "-c", script, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, timeout=170, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def private_mounts() -> tuple[str, ...]:
    """Command that runs another one with mounts of its own, or () where the system does not allow it."""
    for command in (("unshare", "--mount"), ("unshare", "--user", "--map-root-user", "--mount")):
        try:
            test = [*command, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
            if subprocess.run(test, capture_output=True, timeout=60, check=False).returncode == 0:
                return command
        except (OSError, subprocess.TimeoutExpired):
            return ()
    return ()


MOUNTS = private_mounts()
