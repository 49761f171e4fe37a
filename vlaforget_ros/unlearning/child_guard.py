"""Runs a module as a child that yields to the arm and dies with its parent: ``python -m ... MODULE [ARGS]``.

A kill of the unlearning node must not leave an edit behind that nobody watches; and the edit must not slow
the policy down. Neither needs anything of the module that is run.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1
_NICENESS = 10


def main() -> None:
    """Become ``sys.argv[2]`` with the rest as its arguments; ``sys.argv[1]`` is the parent's process id."""
    parent, module = int(sys.argv[1]), sys.argv[2]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(f"{module} is not started: the process that wanted it is gone")
    os.nice(_NICENESS)
    sys.argv = [module, *sys.argv[3:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
