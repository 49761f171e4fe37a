"""Bags: reading as training batches, memory, indexing, recording under load, and what damage costs."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlaforget_ros import figures
from vlaforget_ros.bench.bag_making import (
    bytes_of,
    forget_cached,
    frames_of_bytes,
    require_space,
    rewritten,
    write_bag,
)
from vlaforget_ros.bench.bag_reading import BATCH, compare, peak_bytes
from vlaforget_ros.episodes.catalogue.index import build_index
from vlaforget_ros.figures import Figure

PARTS = ("read", "index", "record", "damage")
_RATE_HZ = 10
_ROBOT_GB = 20.0
"""The size of bag for which the memory is told from its growth, beyond what is written here."""
_FULL_FRAMES = 16 * BATCH
"""With fewer in the smaller bag, the growth would be that of the first batches."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Settings:
    """What to measure.

    Args:
        folder: where the bags are written, and deleted afterwards.
        parts: of :data:`PARTS`.
        gigabytes: images of the bag that is streamed [GB].
        hours: length of the bag that is indexed, at 10 Hz.
        record_seconds: how long the recorder is under load.
        pairs: timed pairs of raw iteration and batches.
        size: of an image [px].
        seed: of pictures and actions.
    """

    folder: Path
    parts: Sequence[str] = PARTS
    gigabytes: float = 2.0
    hours: float = 1.0
    record_seconds: float = 300.0
    pairs: int = 7
    size: int = 224
    seed: int = 0

    @property
    def index_frames(self) -> int:
        """Frames of the bag that is indexed."""
        return max(1, round(self.hours * 3600 * _RATE_HZ))


@dataclass
class _Found:
    figures: list[Figure] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


def measure(settings: Settings, progress: Progress) -> dict[str, Any]:
    """Measure the parts one after the other; every bag is deleted as soon as it is not needed any more.

    Args:
        settings: what to measure.
        progress: called with (what, done, all).

    Raises:
        UnlearningError: 310 when the disk has no room.
    """
    found = _Found()
    run = {"read": _read, "index": _index, "record": _record, "damage": _damage}
    for part in PARTS:
        if part in settings.parts:
            with _folder(settings.folder) as folder:
                run[part](settings, folder, found, progress)
    sizes = {
        "image_px": settings.size,
        "read_gb": settings.gigabytes,
        "index_hours": settings.hours,
        "record_seconds": settings.record_seconds,
        "pairs": settings.pairs,
    }
    return figures.document("bags", found.figures, [settings.seed], sizes=sizes, **found.details)


def _read(settings: Settings, folder: Path, found: _Found, progress: Progress) -> None:
    require_space(folder, settings.gigabytes * 2e9)
    peaks = {}
    rows = []
    for name, share in (("small", 0.25), ("large", 1.0)):
        frames = frames_of_bytes(share * settings.gigabytes * 1e9, settings.size)
        bag = folder / name
        write_bag(bag, frames, settings.size, settings.seed, _told(progress, f"writing the {name} bag"))
        if name == "small":
            for form, packed in (("unchecked", False), ("zstd", True)):
                copy = rewritten(bag, folder / form, packed)
                row = compare(copy, frames, settings.pairs, _told(progress, f"reading the {form} bag"))
                rows.append({"bag": form, "frames": frames, "bytes": bytes_of(copy), **row})
                shutil.rmtree(copy)
        else:
            row = compare(bag, frames, settings.pairs, _told(progress, "reading the large bag"))
            rows.append({"bag": "recorded", "frames": frames, "bytes": bytes_of(bag), **row})
        peaks[name] = (peak_bytes(bag, frames), bytes_of(bag))
        shutil.rmtree(bag)
    main = rows[-1]
    (small, small_bytes), (large, large_bytes) = peaks["small"], peaks["large"]
    growth = (large - small) / (large_bytes - small_bytes)
    count = settings.pairs
    found.figures += [
        Figure("read_ratio", main["ratio"], "ratio", count),
        Figure("read_ratio_unchecked", rows[0]["ratio"], "ratio", count),
        Figure("read_ratio_zstd", rows[1]["ratio"], "ratio", count),
        Figure("read_frames_per_s", main["frames"] / main["stream_s"], "1/s", count),
        Figure("read_mb_per_s", main["bytes"] / main["stream_s"] / 1e6, "MB/s", count),
        Figure("peak_mb", large / 1e6, "MB"),
        Figure("peak_mb_small", small / 1e6, "MB"),
    ]
    if rows[0]["frames"] >= _FULL_FRAMES:
        more = max(growth, 0.0) * (_ROBOT_GB * 1e9 - large_bytes)
        found.figures += [
            Figure("peak_growth_mb_per_gb", 1e3 * growth, "MB/GB"),
            Figure("peak_mb_at_20_gb", (large + more) / 1e6, "MB"),
        ]
    found.details["reading"] = rows


def _index(settings: Settings, folder: Path, found: _Found, progress: Progress) -> None:
    frames = settings.index_frames
    require_space(folder, frames * 3.0 * settings.size**2)
    bag = folder / "hour"
    write_bag(bag, frames, settings.size, settings.seed, _told(progress, "writing the long bag"))
    seconds = []
    for run, cold in enumerate((True, False)):
        if cold:
            forget_cached(bag)
        start = time.perf_counter()
        # Each run in a file of its own: a bag that an index knows already is not read again.
        report = build_index(bag, out=folder / f"index_{run}.jsonl").report()
        seconds.append(time.perf_counter() - start)
        progress("indexing", run + 1, 2)
    if sum(map(len, report.episodes)) != frames:
        raise RuntimeError(f"{sum(map(len, report.episodes))} of {frames} frames were indexed")
    found.figures += [
        Figure("index_seconds", seconds[0], "s", 1),
        Figure("index_seconds_cached", seconds[1], "s", 1),
    ]
    found.details["indexing"] = {"frames": frames, "bytes": bytes_of(bag), "episodes": len(report.episodes)}


def _record(settings: Settings, folder: Path, found: _Found, progress: Progress) -> None:
    from vlaforget_ros.bench.recording_load import run_recording_load

    told = _told(progress, "recording under load")
    result = run_recording_load(
        settings.record_seconds, folder / "recorded", progress=lambda done, total: told(int(done), int(total))
    )
    found.figures += [
        Figure("record_dropped", float(result["record_dropped"]), "count"),
        Figure("record_cpu_percent", float(result["record_cpu_percent"]), "percent"),
    ]
    found.details["recording"] = result


def _damage(settings: Settings, folder: Path, found: _Found, progress: Progress) -> None:
    from vlaforget_ros.bench.damage import run_damage

    result = run_damage(folder)
    progress("damaged bags", 1, 1)
    found.figures.append(Figure("recovered_share_error", float(result["recovered_share_error"]), "ratio"))
    found.details["damage"] = result


def _told(progress: Progress, what: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(what, done, total)


@contextmanager
def _folder(parent: Path) -> Iterator[Path]:
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-bags-", dir=parent) as folder:
        yield Path(folder)
