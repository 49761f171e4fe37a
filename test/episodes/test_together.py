"""Images that lie close together in a file are read with one call, and are what single reads give."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag2.errors import ReaderError

from vlaforget_ros.episodes import plain_image
from vlaforget_ros.episodes.plain_image import ImageInFile, fill_together

SHAPE = (4, 5, 3)
SIZE = 60
# One behind the other, with little between, far behind, back, the same again, another file.
PLACES = [(0, 10), (0, 70), (0, 140), (0, 200_000), (0, 300), (0, 300), (1, 360), (1, 420)]


@pytest.fixture
def files(tmp_path: Path) -> list[int]:
    generator = np.random.default_rng(0)
    found = []
    for name in "ab":
        (tmp_path / name).write_bytes(generator.bytes(250_000))
        found.append(os.open(tmp_path / name, os.O_RDONLY))
    return found


def test_images_are_those_of_single_reads(files: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    images = [ImageInFile(files[file], at, SHAPE) for file, at in PLACES]
    single = np.zeros((len(images), *SHAPE), np.uint8)
    for image, row in zip(images, single, strict=True):
        image.fill(row)
    calls: list[int] = []
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda *a: calls.append(len(a[1])) or preadv(*a))
    together = np.zeros_like(single)
    fill_together(images, together)
    assert np.array_equal(together, single)
    assert calls == [4, 1, 1, 1, 2]
    fill_together([], together[:0])
    monkeypatch.setattr(plain_image, "_TOGETHER", 2)
    together[:] = 0
    fill_together(images, together)
    assert np.array_equal(together, single)


def test_a_read_that_gives_less_is_completed(files: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    images = [ImageInFile(files[0], at, SHAPE) for at in (10, 70, 130)]
    whole, some = (np.zeros((3, *SHAPE), np.uint8) for _ in range(2))
    fill_together(images, whole)
    preadv = os.preadv

    def less(file: int, parts: list[Any], at: int) -> int:
        return preadv(file, [parts[0][: len(parts[0]) // 2 + 1]], at)

    monkeypatch.setattr(os, "preadv", less)
    fill_together(images, some)
    assert np.array_equal(whole, some)


def test_a_file_that_has_become_shorter_is_an_error(files: list[int]) -> None:
    images = [ImageInFile(files[0], at, SHAPE) for at in (249_880, 249_941)]
    with pytest.raises(ReaderError):
        fill_together(images, np.zeros((2, *SHAPE), np.uint8))
