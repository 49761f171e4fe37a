"""Which files a rosbag2 consists of, in which order, and how they are packed."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import yaml

from vlaforget_ros.episodes.folders import storage_of

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
"""How a compressed message begins; no CDR does."""
_NEWEST = 9
_BLOCK = 1 << 20


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
        found = (file for file in path.iterdir() if file.is_file() and storage_of(file))
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


def _natural(path: Path) -> tuple[int, str]:
    # rosbag2 splits into name_0, name_1, ... name_10.
    tail = path.name.split(".")[0].rpartition("_")[2]
    return (int(tail) if tail.isdigit() else -1, path.name)


def unpack_file(path: Path, folder: Path) -> tuple[Path, str]:
    """Unpack a file that was compressed as a whole; of a damaged one what comes before the damage.

    Returns:
        the unpacked file, and what is wrong with the packed one ("" for nothing).
    """
    target = folder / path.name.removesuffix(".zstd")
    unpacker, wrong = zstd.ZstdDecompressor(), ""
    with path.open("rb") as packed, target.open("wb") as plain:
        while block := packed.read(_BLOCK):
            try:
                while block:
                    plain.write(unpacker.decompress(block))
                    block = unpacker.unused_data
                    unpacker = zstd.ZstdDecompressor() if block else unpacker
            except zstd.ZstdError as error:
                wrong = str(error)
                break
        if not wrong and not unpacker.eof:
            wrong = "it ends too early"
    return target, wrong


def unpack_message(data: bytes) -> bytes:
    """A message that was compressed on its own. Raises ValueError where it is damaged."""
    try:
        return zstd.decompress(data)
    except zstd.ZstdError as error:
        raise ValueError(str(error)) from error
