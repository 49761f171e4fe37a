"""``vlaforget record``: the recorder as a command, with what it writes on one line and a table at the end."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from vlaforget_ros import figures
from vlaforget_ros.cli.output import console, errors, plain_table


def record(
    out: Path | None = typer.Argument(
        None, help="Folder of the new bag, or of the incidents' bags; one under runs/bags when not given."
    ),
    topics: str = typer.Option(
        "", help="Record these and no others, with commas: `image,action,/tf`. Any type that is known."
    ),
    cameras: str = typer.Option("", help="Topics of further cameras, with commas."),
    state: str = typer.Option("", help="Topic of the robot's state (JointState)."),
    pre_trigger_s: float = typer.Option(
        0.0, help="Write nothing but the time around violations: from so long before one [s]. 0: everything."
    ),
    post_trigger_s: float = typer.Option(10.0, help="... until so long after the last one [s]."),
    ring_mb: float = typer.Option(500.0, help="Most memory for what came before [MB]."),
    mask: list[str] = typer.Option(
        [],
        help="Region that must not reach the disk, `TOPIC: blur|black|crop X,Y,WIDTH,HEIGHT` [px]; may be repeated.",
    ),
    storage: str = typer.Option("mcap", help="mcap or sqlite3."),
    compression: str = typer.Option("none", help="none or zstd (mcap only)."),
    split_mb: float = typer.Option(0.0, help="A new file after so much [MB]; 0: one file."),
    split_s: float = typer.Option(0.0, help="A new file after so long [s]; 0: one file."),
    min_free_mb: float = typer.Option(1000.0, help="Space on the disk that is left alone [MB]; 0: none."),
    namespace: str = typer.Option("", "--namespace", help="Namespace of the arm."),
    json_path: Path | None = typer.Option(None, "--json", help="Write what was recorded to this file."),
) -> None:
    """Record the graph's topics into a rosbag2 until Ctrl-C. `ros2 bag info` and `ros2 bag play` take it.

    Everything, in files of a minute:  vlaforget record runs/bags/monday --split-s 60 --compression zstd

    Only incidents, each a bag with the 15 s before a violation and the 10 s after, and which rollout it was:
    vlaforget record runs/incidents --pre-trigger-s 15

    A bystander's corner blurred, in raw and compressed images:  vlaforget record --mask "image: blur 0,0,200,120"

    Ends by itself, bag closed and status 1, before the disk is full. What was lost on the way is counted.
    docs/recording.md
    """
    from vlaforget_ros.nodes.start import require_ros

    require_ros()
    from vlaforget_ros.nodes.recorder import main

    values: dict[str, str | float | bool] = {
        "autostart": True,
        "bag": str(out) if out is not None else "",
        "topics": topics,
        "cameras": cameras,
        "state": state,
        "pre_trigger_s": pre_trigger_s,
        "post_trigger_s": post_trigger_s,
        "ring_mb": ring_mb,
        "mask": ";".join(mask),
        "storage": storage,
        "compression": compression,
        "split_mb": split_mb,
        "split_s": split_s,
        "min_free_mb": min_free_mb,
    }
    line = ["--ros-args"]
    for name, value in values.items():
        # As JSON, which is YAML: a topic alone may look like another value.
        line += ["-p", f"{name}:={json.dumps(value)}"]
    if namespace:
        line += ["-r", f"__ns:=/{namespace.strip('/')}"]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with console.status("starting") as shown:
        told = _Told(shown.update)
        status = main([sys.argv[0], *line], watch=told)
    if told.last is not None:
        _print(told.last)
        if json_path is not None:
            figures.write(json_path, dict(told.last))
            errors.print(f"JSON: {json_path}")
    failed = told.last is not None and bool(told.last["error"])
    raise typer.Exit(status or int(failed))


class _Told:
    """What the node says while it records."""

    def __init__(self, show: Any) -> None:
        self._show = show
        self._stopped = False
        self.last: dict[str, Any] | None = None

    def __call__(self, summary: Mapping[str, Any]) -> None:
        self.last = {name: value for name, value in summary.items() if name != "closed"}
        self._show(state_line(summary))
        if summary["error"] and summary["ended"] and not summary.get("closed") and not self._stopped:
            # Nothing more is written: a command that goes on would look like a recording.
            self._stopped = True
            signal.raise_signal(signal.SIGINT)


def state_line(summary: Mapping[str, Any]) -> str:
    """What was written so far, on one line."""
    parts = [
        f"{summary['messages']} messages",
        f"{summary['size_mb']:.1f} MB",
        f"{sum(summary['dropped'].values())} lost",
        f"{summary['free_mb'] / 1000:.1f} GB free",
    ]
    if summary["unmasked"]:
        parts.append(f"{sum(summary['unmasked'].values())} left out, not maskable")
    if summary["incidents"]:
        parts.append(f"{summary['incidents']} incidents")
    if summary["error"]:
        parts.append("FAILED")
    return ", ".join(parts)


def _print(summary: Mapping[str, Any]) -> None:
    topics = sorted({*summary["topics"], *summary["dropped"], *summary["unmasked"]})
    counts = [summary[kind] for kind in ("topics", "dropped", "unmasked")]
    rows = [[topic, *(str(count.get(topic, 0)) for count in counts)] for topic in topics]
    console.print(plain_table(["topic", "recorded", "lost", "left out, not maskable"], rows))
    console.print(state_line(summary), highlight=False)
    for bag in summary["bags"]:
        console.print(bag, highlight=False, soft_wrap=True)
    if summary["error"]:
        errors.print(summary["error"], highlight=False)
