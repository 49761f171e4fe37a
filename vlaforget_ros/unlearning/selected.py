"""What a request chose when it was made: the bags by their content, the sets by their episodes and frames.

A request says in general words what to forget and what to keep. Bags are written on, cut and recorded anew: the same
words then choose something else. What was looked at is therefore written down, and an edit refuses anything else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from vlaforget_ros.episodes.folders import STORAGE_SUFFIXES
from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.unlearning.parameters import Strict

if TYPE_CHECKING:
    from vlaforget_ros.unlearning.request import Request

METADATA = "metadata.yaml"
_BLOCK = 1 << 20
_SHOWN = 5

Sizes = Mapping[str, int]
"""Rollout id to the number of its frames that are chosen."""
Told = Callable[[int, int], None]


class SelectedBag(Strict):
    """A bag by its content.

    Attributes:
        sha256: of its storage files: see :func:`hash_bag`.
        size: bytes of these files.
    """

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class Selected(Strict):
    """What was chosen.

    Attributes:
        bags: in the order of the request's ``bags``.
        mapping: SHA-256 of the request's ``mapping`` file, "" where it has none.
        forget: rollout id to the number of its frames in D_f.
        retain: the same of D_r.
        boundary: the same of D_b; empty without a boundary selection.
    """

    bags: tuple[SelectedBag, ...]
    mapping: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    forget: dict[str, int]
    retain: dict[str, int]
    boundary: dict[str, int] = Field(default_factory=dict)

    def sets(self) -> dict[str, dict[str, int]]:
        """The sets by name."""
        return {"forget": self.forget, "retain": self.retain, "boundary": self.boundary}


def content_files(bag: Path) -> list[tuple[str, Path]]:
    """The files whose content counts, in order, each with the name that counts: "" for the storage files of a bag.

    In a folder without storage files (a data set of another kind) all files below it count, with their places.
    """
    if bag.is_file():
        return [("", bag)]
    storage = [file for file in bag.iterdir() if file.is_file() and file.name.endswith(STORAGE_SUFFIXES)]
    if storage:
        return [("", file) for file in sorted(storage)]
    below = [file for file in bag.rglob("*") if file.is_file() and file != bag / METADATA]
    return sorted((file.relative_to(bag).as_posix(), file) for file in below)


def hash_bag(bag: Path, told: Callable[[int], None] = lambda count: None) -> SelectedBag:
    """The content of a bag: SHA-256 over the SHA-256 of each storage file, in order of their names.

    ``metadata.yaml`` and the names do not count: a bag that was moved, renamed or indexed again is the same. Of a
    folder that is no bag all files count, as :func:`content_files` has them.

    Args:
        bag: folder or file.
        told: called with the number of bytes that were read since the last call.

    Raises:
        UnlearningError: 301 for a bag that is not there, cannot be read or is empty.
    """
    whole, size = hashlib.sha256(), 0
    try:
        files = content_files(bag)
        for name, file in files:
            part = hashlib.sha256(f"{name}\0".encode() if name else b"")
            with file.open("rb") as opened:
                while block := opened.read(_BLOCK):
                    part.update(block)
                    size += len(block)
                    told(len(block))
            whole.update(part.digest())
    except OSError as error:
        raise _unreadable(bag, error.strerror or str(error)) from error
    if not files:
        raise _unreadable(bag, "no files")
    return SelectedBag(sha256=whole.hexdigest(), size=size)


def hash_bags(bags: Sequence[Path], told: Told | None = None) -> tuple[SelectedBag, ...]:
    """As :func:`hash_bag` for several.

    Args:
        bags: folders or files.
        told: called with bytes done and bytes in all.

    Raises:
        UnlearningError: 301 as :func:`hash_bag`.
    """
    total = sum(file.stat().st_size for bag in bags if bag.exists() for _, file in content_files(bag))
    done = 0

    def read(count: int) -> None:
        nonlocal done
        done += count
        if told is not None:
            told(done, total)

    return tuple(hash_bag(bag, read) for bag in bags)


def hash_mapping(mapping: str) -> str:
    """SHA-256 of a mapping file, "" for none. Raises UnlearningError 300 where it cannot be read."""
    if not mapping:
        return ""
    try:
        return hashlib.sha256(Path(mapping).read_bytes()).hexdigest()
    except OSError as error:
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAD_REQUEST,
            f"mapping file cannot be read: {error.strerror or error}",
            value=mapping,
            remedy="check the path",
        ) from error


def bag_changes(request: Request, told: Told | None = None) -> list[str]:
    """Bags, and a mapping, that are not what they were when the request was made; none without ``selected``."""
    if request.selected is None:
        return []
    changed = hash_mapping(request.mapping) != request.selected.mapping
    found = [f"mapping {request.mapping or '(none)'} has another content"] if changed else []
    bags = [Path(bag) for bag in request.bags]
    missing = [str(bag) for bag in bags if not bag.exists()]
    if missing:
        return [*found, *(f"bag {bag} is gone" for bag in missing)]
    for bag, was, now in zip(bags, request.selected.bags, hash_bags(bags, told), strict=True):
        if now.sha256 != was.sha256:
            sizes = (
                f"{was.size} bytes, now {now.size}" if now.size != was.size else f"{was.size} bytes as before"
            )
            found.append(f"bag {bag} has another content ({sizes}): {was.sha256[:12]}, now {now.sha256[:12]}")
    return found


def set_changes(request: Request, sets: Mapping[str, Sizes]) -> list[str]:
    """Sets that are not what they were when the request was made; none without ``selected``.

    Args:
        request: the request.
        sets: what its selections choose now, by name of the set.
    """
    if request.selected is None:
        return []
    return [
        text
        for name, was in request.selected.sets().items()
        for text in _changes(name, was, sets.get(name, {}))
    ]


def require_same_bags(request: Request) -> None:
    """Raises UnlearningError 300 naming the bags whose content changed since the request was made."""
    require_none(bag_changes(request))


def require_same_sets(request: Request, sets: Mapping[str, Sizes]) -> None:
    """Raises UnlearningError 300 naming episodes that came, went or have other frames since the request was made."""
    require_none(set_changes(request, sets))


def _changes(name: str, was: Sizes, now: Sizes) -> Iterator[str]:
    for what, ids in (("new", now.keys() - was.keys()), ("gone", was.keys() - now.keys())):
        if ids:
            yield f"{name}: {what} {_named(ids)}"
    other = [rollout for rollout in was.keys() & now.keys() if was[rollout] != now[rollout]]
    if other:
        texts = [f"{rollout} ({was[rollout]} frames, now {now[rollout]})" for rollout in sorted(other)]
        yield f"{name}: {_named(texts)}"


def _named(texts: Iterable[str]) -> str:
    ordered = sorted(texts)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more


def require_none(changes: Sequence[str]) -> None:
    """Raises UnlearningError 300 with the changes, where there are any."""
    if changes:
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAD_REQUEST,
            "data changed since the request was made",
            value="; ".join(changes),
            limit="the bags and sets that `selected` of the request names",
            remedy="bring the bags back, or make the request anew with `vlaforget request new`; "
            "without `selected` a request takes what it finds",
        )


def _unreadable(bag: Path, why: str) -> UnlearningError:
    return UnlearningError(
        ErrorCode.UNLEARNING_BAG_UNREADABLE,
        f"bag cannot be hashed: {why}",
        value=str(bag),
        limit=f"a folder with {' or '.join(STORAGE_SUFFIXES)} files, or one such file",
        remedy="check the path",
    )
