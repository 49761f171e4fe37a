"""Where the files beside the package are: checkpoints, configuration, launch files.

They lie in three places: the source tree (also under ``colcon build --symlink-install``, where modules are
links into it), ``<prefix>/share/vlaforget_ros`` of a colcon install, and the same folder of the environment
after ``pip install .``.
"""

from __future__ import annotations

from pathlib import Path

from vlaforget_ros.errors import ErrorCode, PolicyError, VlaForgetError, did_you_mean

PACKAGE = "vlaforget_ros"


def find_share(module_file: Path) -> Path:
    """The share folder that belongs to the package containing ``module_file``.

    Args:
        module_file: a module directly in the package folder; links are followed.

    Raises:
        VlaForgetError: 604, neither a source tree nor an install is around the module.
    """
    package = module_file.resolve().parent
    if (package.parent / "package.xml").is_file() and (package.parent / "config").is_dir():
        return package.parent
    for prefix in package.parents:
        share = prefix / "share" / PACKAGE
        if (share / "config").is_dir():
            return share
    raise VlaForgetError(
        ErrorCode.FILES_MISSING,
        "the package's configuration and checkpoints are not installed",
        value=package,
        limit=f"<prefix>/share/{PACKAGE}/config in a folder above it",
        remedy="install again: `make build`, `colcon build` or `pip install .`",
    )


def share_directory() -> Path:
    """Folder with ``config/``, ``launch/`` and ``models/``: the source tree or ``share/vlaforget_ros``."""
    return find_share(Path(__file__))


def models_directory() -> Path:
    """Folder with one base checkpoint a folder, such as ``tiny``."""
    return share_directory() / "models"


def config_directory() -> Path:
    """Folder with the parameter files of the nodes."""
    return share_directory() / "config"


def checkpoint_directory(text: str) -> Path:
    """The checkpoint folder a person means by ``text``: a path, or the name of one that ships.

    Args:
        text: an absolute path; a path relative to the working folder; ``tiny`` or ``models/tiny``.

    Raises:
        PolicyError: 207, there is no such folder.
    """
    share = share_directory()
    for candidate in (Path(text).expanduser(), share / text, share / "models" / text):
        if text and candidate.is_dir():
            return candidate.resolve()
    shipped = sorted(entry.name for entry in (share / "models").glob("*") if entry.is_dir())
    raise PolicyError(
        ErrorCode.POLICY_BAD_CHECKPOINT, "no such checkpoint", value=text, remedy=did_you_mean(text, shipped)
    )


def source_root() -> Path | None:
    """The source tree this package runs from, or None when it runs from an install."""
    root = share_directory()
    return root if (root / "package.xml").is_file() and (root / PACKAGE).is_dir() else None
