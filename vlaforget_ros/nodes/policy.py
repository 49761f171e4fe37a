"""Entry point of policy_node: ``python -m vlaforget_ros.nodes.policy [--ros-args ...]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vlaforget_ros.nodes.start import run_node


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until it is told to stop; returns the exit status."""
    return run_node("vlaforget_ros.nodes.policy_arms", "policy_nodes", args)


if __name__ == "__main__":
    sys.exit(main())
