"""What this package knows of an episode beyond LeRobot's columns: a file of its own beside LeRobot's.

With it a round trip loses nothing but the precision of a video. LeRobot neither reads nor needs it; without it, or
when it is damaged, a data set is read as any other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vlaforget_ros.episodes.lerobot.index import FAULTS
from vlaforget_ros.episodes.lerobot.layout import FACTS
from vlaforget_ros.episodes.types import EpisodeInfo, Problem, Violation

_SCHEMA = pa.schema(
    [
        ("episode_index", pa.int64()),
        ("rollout_id", pa.string()),
        ("adapter_digest", pa.string()),
        ("success", pa.bool_()),
        ("phase", pa.string()),
        ("violations", pa.string()),
        ("stamps_ns", pa.list_(pa.int64())),
        ("source", pa.string()),
        ("dropped_frames", pa.int64()),
    ]
)


@dataclass(frozen=True, eq=False)
class Facts:
    """As the attributes of :class:`EpisodeInfo` with these names."""

    rollout_id: str
    adapter_digest: str
    success: bool | None
    phase: str
    violations: tuple[Violation, ...]
    stamps_ns: np.ndarray
    dropped_frames: int


def row_of(index: int, episode: EpisodeInfo) -> dict[str, object]:
    """The row of one episode."""
    return {
        "episode_index": index,
        "rollout_id": episode.rollout_id,
        "adapter_digest": episode.adapter_digest,
        "success": episode.success,
        "phase": str(episode.phase),
        "violations": json.dumps([asdict(violation) for violation in episode.violations]),
        "stamps_ns": episode.stamps_ns.tolist(),
        "source": episode.source,
        "dropped_frames": episode.dropped_frames,
    }


def write_facts(folder: Path, rows: Iterable[dict[str, object]]) -> None:
    """Write the file."""
    table = pa.Table.from_pylist(list(rows), schema=_SCHEMA)
    pq.write_table(table, folder / FACTS, write_page_checksum=True)


def read_facts(folder: Path) -> tuple[dict[int, Facts], list[Problem]]:
    """Facts by ``episode_index``; none where the file is not there."""
    path = folder / FACTS
    if not path.is_file():
        return {}, []
    try:
        rows = pq.read_table(path, page_checksum_verification=True).to_pylist()
        return {
            row["episode_index"]: Facts(
                rollout_id=row["rollout_id"],
                adapter_digest=row["adapter_digest"],
                success=row["success"],
                phase=row["phase"],
                violations=tuple(Violation(**one) for one in json.loads(row["violations"])),
                stamps_ns=np.array(row["stamps_ns"], dtype=np.int64),
                dropped_frames=row["dropped_frames"],
            )
            for row in rows
        }, []
    except FAULTS as error:
        text = f"{FACTS} is damaged, so outcomes and violations are not known: {str(error)[:120]}"
        return {}, [Problem("facts_damaged", "", 1, text, str(path))]
