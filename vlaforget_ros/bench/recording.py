"""Rollouts that ran in this process as a rosbag2, with the topics and types of the live graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vlaforget_ros.cell.rollouts import RolloutResult
from vlaforget_ros.episodes.writer import EpisodeWriter


def record(
    path: Path, results: Sequence[RolloutResult], base_digest: str = "", adapter_digest: str = ""
) -> list[str]:
    """Write rollouts (run with ``keep_images``) into a new bag; returns their rollout ids in order.

    Raises:
        UnlearningError: 310 when the folder exists or cannot be made.
    """
    ids = []
    with EpisodeWriter(path, base_digest=base_digest) as writer:
        for number, result in enumerate(results):
            ids.append(f"{result.situation}-{result.seed}-{number}")
            writer.begin(ids[-1], result.instruction, adapter_digest)
            frames = result.images if result.images is not None else ()
            for tick, image in enumerate(frames):
                writer.frame(image, result.actions[tick], ee_position=result.ee_positions[tick])
                for when, found in result.violations:
                    # A violation is seen in the observation after the action of its tick.
                    if when == tick + 1:
                        writer.violation(
                            found.rule,
                            value=found.value,
                            limit=found.limit,
                            unit=found.unit,
                            message=found.message,
                        )
            writer.end(result.success)
    return ids
