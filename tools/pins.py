"""Writes constraints.txt from what is installed in .venv: run it after a deliberate change of a dependency.

Usage: .venv/bin/python tools/pins.py > constraints.txt
"""

from __future__ import annotations

from importlib.metadata import distributions

HEADER = """\
# Exact versions of everything `make build` installs, for Python 3.11 and 3.12. The only place with pins.
# Local build tags (torch 2.13.0+cpu) are left out: tools/set_up.py decides which build of torch is taken.
"""


def pins() -> list[str]:
    """`name==version` of every distribution an installer put here, sorted; no local build tags.

    The ROS wheels carry further metadata directories (rclpy, std_msgs ...) that no installer wrote: those
    cannot be installed by name and are left out, as are pip itself and this package.
    """
    found: dict[str, str] = {}
    for distribution in distributions():
        name = distribution.metadata["Name"].lower().replace("_", "-")
        if distribution.read_text("INSTALLER") and name not in {"pip", "vlaforget-ros"}:
            found[name] = distribution.version.split("+")[0]
    return [f"{name}=={version}" for name, version in sorted(found.items())]


if __name__ == "__main__":
    print(HEADER + "\n".join(pins()))
