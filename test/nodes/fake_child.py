"""Stands in for an edit: does what the request's ``reason`` says, with the lines of the real child."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import yaml


def say(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--request", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    request = yaml.safe_load(options.request.read_text())
    (options.out / "pid").write_text(str(os.getpid()))
    print("a library printed this")
    progress()
    return {"succeed": succeed, "tell": tell, "die": die, "hang": hang, "refuse": refuse}[request["reason"]](
        request, options
    )


def progress() -> None:
    """A step, and what goes on after it."""
    step = {"stage": "visual", "round": 0, "step": 1, "total_steps": 9, "eta_s": 8, "peak_mb": 300}
    say("progress", **step, losses={"forget": 2.5})
    say("progress", **step, losses={}, doing="measuring, forget: 3 of 8 frames")


def tell(request: dict[str, Any], options: argparse.Namespace) -> int:
    """Succeed once somebody has heard of all progress: feedback may be lost."""
    while not (options.out / "heard").exists():
        progress()
        threading.Event().wait(0.2)
    return succeed(request, options)


def succeed(request: dict[str, Any], options: argparse.Namespace) -> int:
    provenance = {"name": request["name"], "method": "test", "gates_passed": True}
    adapter = options.out.parent / "prepared"
    metrics = {"fc": 100.0, "rc": 99.0}
    say("done", directory=str(adapter), metrics=metrics, report="report.html", provenance=provenance)
    return 0


def die(_: dict[str, Any], __: argparse.Namespace) -> int:
    print("allocating a lot", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def hang(_: dict[str, Any], __: argparse.Namespace) -> int:
    while True:
        progress()
        threading.Event().wait(0.2)


def refuse(_: dict[str, Any], __: argparse.Namespace) -> int:
    say(
        "error",
        code=302,
        message="[302 UNLEARNING_EMPTY_FORGET_SET] nothing to forget; remedy: look elsewhere",
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
