"""Small bags and episodes: frame k of rollout r is a picture of colour (k, r, 7) with the action (k, r)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlaforget_ros.episodes import BagSink, Episode, EpisodeWriter, Violation
from vlaforget_ros.episodes.images import image_message
from vlaforget_ros.episodes.messages import (
    IMAGE,
    POLICY_ACTION,
    ROLLOUT,
    ROLLOUT_OUTCOME,
    SAFETY_VIOLATION,
    ns_to_stamp,
    typestore,
)

SECOND = 1_000_000_000
STEP = SECOND // 10
DIGEST = "ad" * 32

MakeEpisode = Callable[..., Episode]


def picture(frame: int, rollout: int, size: int = 8) -> np.ndarray:
    return np.full((size, size, 3), (frame, rollout, 7), dtype=np.uint8)


def motion(frame: int, rollout: int) -> np.ndarray:
    return np.array([frame, rollout], dtype=np.float32)


def write_rollouts(
    writer: EpisodeWriter, rollouts: int = 2, frames: int = 12, size: int = 8, first: int = 0
) -> None:
    """Rollout r<number>: odd ones violate and fail and are driven by an adapter."""
    for number in range(first, first + rollouts):
        odd = number % 2 == 1
        writer.begin(f"r{number}", "open the faucet", DIGEST if odd else "")
        for frame in range(frames):
            writer.frame(picture(frame, number, size), motion(frame, number), ee_position=np.zeros(3))
        if odd:
            writer.violation("keep_out/hand_zone", value=0.1, limit=0.0, unit="m", message="inside")
        writer.end(not odd)


def write_with_a_flipped_bit(path: Path) -> None:
    """r0, r1 and r2 in two chunks of ten frames each; the second half of r1 is damaged."""
    with EpisodeWriter(path) as writer:
        for number in range(3):
            writer.begin(f"r{number}", "open the faucet")
            for frame in range(20):
                writer.frame(picture(frame, number, 32), motion(frame, number))
                if frame == 9:
                    writer.flush()
            writer.end(True)
            writer.flush()
    file = path / f"{path.name}_0.mcap"
    data = bytearray(file.read_bytes())
    data[data.index(bytes((15, 1, 7)) * 20)] ^= 1
    file.write_bytes(data)


@pytest.fixture
def small_bag(tmp_path: Path) -> Path:
    with EpisodeWriter(tmp_path / "bag") as writer:
        write_rollouts(writer)
    return tmp_path / "bag"


class Tape:
    """A bag written message by message, for recordings that are not as they should be."""

    TYPES = {  # noqa: RUF012
        "/image": IMAGE,
        "/action": POLICY_ACTION,
        "/rollout": ROLLOUT,
        "/outcome": ROLLOUT_OUTCOME,
        "/safety/violation": SAFETY_VIOLATION,
    }

    def __init__(self, path: Path, topics: Sequence[str] = tuple(TYPES)) -> None:
        self.sink = BagSink(path)
        self.path = path
        for topic in topics:
            self.sink.add_topic(topic, self.TYPES[topic])

    def _header(self, stamp: int) -> Any:
        return typestore().types["std_msgs/msg/Header"](ns_to_stamp(stamp), "")

    def put(self, topic: str, time_ns: int, *values: Any) -> None:
        msgtype = self.TYPES[topic]
        message = typestore().types[msgtype](*values)
        self.sink.write(topic, typestore().serialize_cdr(message, msgtype), time_ns)

    def image(self, stamp: int, pixels: np.ndarray, time_ns: int | None = None) -> None:
        data = typestore().serialize_cdr(image_message(pixels, stamp), IMAGE)
        self.sink.write("/image", data, stamp if time_ns is None else time_ns)

    def camera(self, topic: str, stamp: int, pixels: np.ndarray, time_ns: int) -> None:
        self.sink.add_topic(topic, IMAGE)
        self.sink.write(topic, typestore().serialize_cdr(image_message(pixels, stamp), IMAGE), time_ns)

    def action(
        self,
        stamp: int,
        values: Sequence[float] | np.ndarray,
        time_ns: int | None = None,
        rollout: str = "r0",
        fault: int = 0,
        adapter: str = "",
    ) -> None:
        time_ns = stamp + 1 if time_ns is None else time_ns
        array = np.asarray(values, dtype=np.float32)
        self.put(
            "/action",
            time_ns,
            self._header(time_ns),
            ns_to_stamp(stamp),
            rollout,
            0,
            array,
            adapter,
            "",
            1.0,
            1.0,
            fault,
        )

    def rollout(self, time_ns: int, phase: int, rollout: str = "r0", instruction: str = "go") -> None:
        self.put("/rollout", time_ns, self._header(time_ns), rollout, instruction, "", 0, phase, 0)

    def outcome(self, time_ns: int, success: bool, rollout: str = "r0") -> None:
        self.put("/outcome", time_ns, rollout, success, "operator")

    def violation(self, stamp: int, rollout: str = "r0", rule: str = "speed/ee") -> None:
        self.put(
            "/safety/violation",
            stamp,
            self._header(stamp),
            rollout,
            "",
            rule,
            2,
            0.5,
            0.25,
            "m/s",
            "too fast",
        )

    def close(self) -> Path:
        self.sink.close()
        return self.path


@pytest.fixture
def make_tape(tmp_path: Path) -> Callable[..., Tape]:
    def make(name: str = "tape", **options: Any) -> Tape:
        return Tape(tmp_path / name, **options)

    return make


def violation(stamp_ns: int, rule: str = "keep_out/hand_zone") -> Violation:
    return Violation(rule, "WARN", stamp_ns, 0.1, 0.0, "m", "inside")


@pytest.fixture
def make_episode() -> MakeEpisode:
    def make(
        rollout_id: str = "r0",
        instruction: str = "open the faucet",
        *,
        frames: int = 20,
        images: np.ndarray | None = None,
        success: bool | None = True,
        violations: Sequence[Violation] = (),
        adapter: str = "",
        start_ns: int = 0,
    ) -> Episode:
        count = frames if images is None else len(images)
        number = int("".join(c for c in rollout_id if c.isdigit()) or 0)
        return Episode(
            rollout_id=rollout_id,
            instruction=instruction,
            adapter_digest=adapter,
            images=np.stack([picture(k, number) for k in range(count)]) if images is None else images,
            actions=np.stack([motion(k, number) for k in range(count)]),
            stamps_ns=start_ns + STEP * np.arange(count, dtype=np.int64),
            success=success,
            phase={True: "SUCCEEDED", False: "FAILED", None: "ABORTED"}[success],
            violations=tuple(violations),
            source="bag",
            dropped_frames=0,
        )

    return make
