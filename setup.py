"""`pip install .`: the pure-Python core and the `vlaforget` command, without ROS (colcon builds that)."""

import re
from pathlib import Path

from setuptools import find_namespace_packages, setup

ROOT = Path(__file__).resolve().parent


def requirements(name: str) -> list[str]:
    """The lines of requirements/<name>.txt, the one list that feeds this file and `make build`."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def version() -> str:
    text = (ROOT / "vlaforget_ros" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    if found is None:
        raise RuntimeError("vlaforget_ros/__init__.py names no __version__")
    return found.group(1)


def shared_files(*folders: str) -> list[tuple[str, list[str]]]:
    """Files of folders beside the package, for where colcon puts them too: share/vlaforget_ros/<folder>."""
    found: dict[str, list[str]] = {}
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix in {".yaml", ".py", ".json", ".safetensors", ".md", ".msg"}:
                place = path.parent.relative_to(ROOT).as_posix()
                found.setdefault(f"share/vlaforget_ros/{place}", []).append(path.relative_to(ROOT).as_posix())
    return sorted(found.items())


setup(
    name="vlaforget-ros",
    version=version(),
    description="Take an unwanted behaviour out of a deployed Vision-Language-Action policy, and prove it",
    license="Apache-2.0",
    python_requires=">=3.11",
    # Folders without __init__.py hold data files (checkpoints, templates): they belong to it as well.
    packages=find_namespace_packages(include=["vlaforget_ros", "vlaforget_ros.*"]),
    package_data={"": ["*.json", "*.safetensors", "*.yaml", "*.html", "*.j2", "*.css", "*.md", "py.typed"]},
    data_files=shared_files("config", "launch", "models", "msg"),
    install_requires=requirements("core"),
    extras_require={name: requirements(name) for name in ("cell", "rounding", "transport", "dev")},
    entry_points={"console_scripts": ["vlaforget = vlaforget_ros.cli.app:main"]},
)
