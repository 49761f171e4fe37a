"""Which files a rosbag2 consists of, in which order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import yaml

from vlaforget_ros.episodes.folders import storage_of

_NEWEST = 9


@dataclass(frozen=True)
class BagFolder:
    """Files of a bag.

    Attributes:
        files: in order; some may not be there.
        wrong: what is wrong with metadata.yaml, "" for nothing.
    """

    files: tuple[Path, ...]
    wrong: str = ""


def bag_folder(path: Path) -> BagFolder:
    """The files of a bag: those that metadata.yaml names, else all that look like it, in the order of their numbers.

    Raises:
        OSError: the folder or its metadata.yaml may not be read.
    """
    if path.is_file():
        return BagFolder((path,) if storage_of(path) else ())
    try:
        names = _named(path / "metadata.yaml")
    except (yaml.YAMLError, KeyError, TypeError, ValueError, FileNotFoundError) as error:
        found = {file for file in path.iterdir() if file.is_file() and storage_of(file)}
        # rosbag2 unpacks a file beside the packed one, and a recorder killed while it packs leaves both: one counts.
        found = {file for file in found if _unpacked(file) not in found}
        return BagFolder(tuple(sorted(found, key=_natural)), wrong=_reason(error))
    return BagFolder(tuple(path / name for name in names))


def _named(file: Path) -> list[str]:
    document: Any = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
    described = document["rosbag2_bagfile_information"]
    if described["version"] > _NEWEST:
        raise ValueError(f"version {described['version']} is not known")
    formats = {
        topic["topic_metadata"]["serialization_format"] for topic in described["topics_with_message_count"]
    }
    if formats - {"cdr"}:
        raise ValueError(f"serialization format {', '.join(sorted(formats))}")
    # Older versions name files relative to the folder above.
    return [PurePath(name).name for name in described["relative_file_paths"]]


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The fast one where there is one."""


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no metadata.yaml"
    if isinstance(error, KeyError):
        return f"metadata.yaml lacks {error}"
    return f"metadata.yaml cannot be used: {str(error).splitlines()[0][:150]}"


def _unpacked(path: Path) -> Path | None:
    return path.with_suffix("") if path.suffix == ".zstd" else None


def _natural(path: Path) -> tuple[int, str]:
    # rosbag2 splits into name_0, name_1, ... name_10.
    tail = path.name.split(".")[0].rpartition("_")[2]
    return (int(tail) if tail.isdigit() else -1, path.name)
