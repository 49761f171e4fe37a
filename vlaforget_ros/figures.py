"""The one JSON form of every benchmark and of the demo, so that results can be compared over time."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

_VERSIONED = ("torch", "transformers", "peft", "numpy", "mujoco", "metaworld", "rosbags", "ros-rclpy")


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Args:
        name: snake_case and stable over time; ratios end in ``_ratio``.
        value: the measurement, in ``unit``.
        unit: SI unit, ``percent``, ``count`` or ``ratio``.
        n: how many episodes, runs or samples stand behind it.
        low: lower bound of the 95 % interval, where there is one.
        high: upper bound of the 95 % interval, where there is one.
    """

    name: str
    value: float
    unit: str
    n: int = 1
    low: float | None = None
    high: float | None = None


def hardware() -> dict[str, Any]:
    """Processor, cores, memory [GB] and GPU of this machine."""
    info: dict[str, Any] = {
        "machine": platform.machine(),
        "processor": _processor_name(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": None,
    }
    import torch

    if torch.cuda.is_available():
        info["gpu"] = torch.cuda.get_device_name(0)
    return info


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide results."""
    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str:
    """Git commit of this source tree, with ``+`` when it has uncommitted changes, or ``unknown``."""
    root = Path(__file__).resolve().parent.parent
    try:
        run = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return run.stdout.strip()


def document(benchmark: str, figures: Sequence[Figure], seeds: Iterable[int], **extra: Any) -> dict[str, Any]:
    """The result document: benchmark, commit, hardware, versions, seeds, figures, and any extra keys."""
    return {
        "benchmark": benchmark,
        "commit": commit(),
        "hardware": hardware(),
        "versions": versions(),
        "seeds": list(seeds),
        "figures": [asdict(figure) for figure in figures],
        **extra,
    }


def write(path: Path, doc: dict[str, Any]) -> None:
    """Write a result document as readable JSON, creating the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(doc, indent=2) + "\n")


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
