"""Entry point of recorder_node: ``python -m vlaforget_ros.nodes.recorder [--summary FILE] [--ros-args ...]``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlaforget_ros.nodes.start import run_node

Watch = Callable[[Mapping[str, Any]], None]


def main(args: Sequence[str] | None = None, watch: Watch | None = None) -> int:
    """Run the node until it is told to stop; returns the exit status.

    Args:
        args: command line, of this process when not given. ``--summary FILE`` writes what was recorded as JSON, each
            time a recording is closed.
        watch: gets the node's summary once a second while it is active, and when a recording is closed.
    """
    line = list(sys.argv if args is None else args)
    file = None
    if "--summary" in line:
        at = line.index("--summary")
        file = Path(line[at + 1])
        del line[at : at + 2]

    def told(summary: Mapping[str, Any]) -> None:
        if file is not None and summary.get("closed"):
            file.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        if watch is not None:
            watch(summary)

    return run_node("vlaforget_ros.nodes.recorder_node", "RecorderNode", line, watch=told)


if __name__ == "__main__":
    sys.exit(main())
