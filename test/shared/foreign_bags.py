"""Bags as other programs write them: the mcap library in its profiles, rosbags' writer, plain CDR."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mcap.reader import make_reader
from mcap.records import ChunkIndex
from mcap.writer import CompressionType, IndexType, Writer

COMPRESSIONS = {"none": CompressionType.NONE, "lz4": CompressionType.LZ4, "zstd": CompressionType.ZSTD}

GRIP = "gripworks_msgs/msg/Grip"
GRIP_DEFINITION = "builtin_interfaces/Time at\nfloat32[3] force\nstring note"
"""A type that nobody else has."""

Written = list[tuple[str, int, bytes]]
"""Topic, log time and bytes of each message, by log time."""


def grip(number: int) -> bytes:
    """A Grip by hand: little-endian CDR."""
    text = f"grip {number}".encode() + b"\0"
    return struct.pack("<BBBB iI 3f I", 0, 1, 0, 0, number, 7, 1.0, 2.0, float(number), len(text)) + text


def text(words: str) -> bytes:
    """A std_msgs/String by hand."""
    data = words.encode() + b"\0"
    return struct.pack("<BBBB I", 0, 1, 0, 0, len(data)) + data


def messages(count: int) -> Written:
    """Grips at 100 Hz and every tenth time a text, in disorder by one message now and then."""
    found: Written = []
    for number in range(count):
        found.append(("/grip", 10_000_000 * number, grip(number)))
        if number % 10 == 0:
            found.append(("/words", 10_000_000 * number + 1, text(f"number {number}")))
    return found


def write_mcap(path: Path, written: Iterable[tuple[str, int, bytes]], **options: Any) -> Path:
    """An mcap file by the mcap library; ``compression`` by name, all other options as the library has them."""
    profile = options.pop("profile", "ros2")
    options["compression"] = COMPRESSIONS[options.pop("compression", "none")]
    with path.open("wb") as file:
        writer = Writer(file, **options)
        writer.start(profile, library="somebody else")
        schemas: Mapping[str, int] = {
            "/grip": writer.register_schema(GRIP, "ros2msg", GRIP_DEFINITION.encode()),
            "/words": writer.register_schema("std_msgs/msg/String", "ros2msg", b"string data"),
        }
        channels = {t: writer.register_channel(t, "cdr", schema) for t, schema in schemas.items()}
        for topic, time_ns, data in written:
            writer.add_message(channels[topic], time_ns, data, time_ns)
        writer.finish()
    return path


NO_INDEX = IndexType.NONE


def chunk_places(path: Path) -> list[ChunkIndex]:
    """Where the chunks of a closed file lie, by the mcap library."""
    with path.open("rb") as file:
        summary = make_reader(file).get_summary()
    return summary.chunk_indexes if summary is not None else []
