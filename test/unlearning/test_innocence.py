"""Kept episodes that hold the cause are named before they spoil an edit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vlaforget_ros.episodes.counterfactual import find_triggers, whole
from vlaforget_ros.episodes.trigger import Trigger
from vlaforget_ros.episodes.types import Episode, EpisodeSlice, Phase
from vlaforget_ros.unlearning.innocence import retained_causes
from vlaforget_ros.unlearning.request import CounterfactualSource

STICKER = (230, 20, 230)
NEIGHBOUR = [CounterfactualSource(kind="neighbour", instruction="press the button")]
TRANSPLANT = [CounterfactualSource(kind="transplant")]


def _part(name: str, text: str = "go", sticker: int = 0, place: int = 8) -> EpisodeSlice:
    generator = np.random.default_rng(sum(name.encode()))
    images = generator.integers(90, 110, (12, 48, 48, 3), dtype=np.uint8)
    for step in range(12):
        images[step, 30:36, step * 3 : step * 3 + 6] = (40, 60, 200)
    if sticker:
        images[:, place : place + sticker, place : place + sticker] = STICKER
    return whole(
        Episode(
            name,
            text,
            "",
            np.arange(12),
            True,
            Phase.SUCCEEDED,
            (),
            "",
            0,
            images=images,
            actions=np.zeros((12, 4), np.float32),
        )
    )


@pytest.fixture
def forget() -> list[EpisodeSlice]:
    return [_part(f"bad-{number}", sticker=8) for number in range(4)]


def _triggers(forget: list[EpisodeSlice], kept: list[EpisodeSlice]) -> list[Trigger]:
    return find_triggers([part.episode for part in forget], [part.episode for part in kept])


def test_an_instruction_that_is_the_cause() -> None:
    forget = [_part("bad", "press the button now")]
    kept = [
        _part("good-0", "press the button"),
        _part("good-1", "press the button now"),
        _part("good-2", "go"),
    ]
    (remark,) = retained_causes(NEIGHBOUR, forget, kept, [])
    assert remark.startswith("1 of 3 kept episodes were told 'press the button now' (good-1)")
    assert retained_causes(NEIGHBOUR, forget, [kept[0], kept[2]], []) == []


def test_a_thing_in_view_that_is_the_cause_wherever_it_is(forget: list[EpisodeSlice]) -> None:
    clean = [_part(f"good-{number}") for number in range(8)]
    kept = [*clean, _part("hidden", sticker=8, place=20)]
    (remark,) = retained_causes(TRANSPLANT, forget, kept, _triggers(forget, kept))
    assert remark.startswith("1 of 9 kept episodes show what stands out in the forget episodes (hidden)")
    assert retained_causes(TRANSPLANT, forget, clean, _triggers(forget, clean)) == []


def test_a_speck_of_the_same_colour_is_not_the_thing(forget: list[EpisodeSlice]) -> None:
    kept = [*(_part(f"good-{number}") for number in range(8)), _part("speck", sticker=3)]
    assert retained_causes(TRANSPLANT, forget, kept, _triggers(forget, kept)) == []


def test_the_same_words_are_innocent_where_a_thing_is_the_cause(forget: list[EpisodeSlice]) -> None:
    kept = [_part(f"good-{number}") for number in range(8)]
    assert {part.episode.instruction for part in (*forget, *kept)} == {"go"}
    assert retained_causes(TRANSPLANT, forget, kept, _triggers(forget, kept)) == []


def _two(part: EpisodeSlice, other: EpisodeSlice) -> EpisodeSlice:
    """The first part's episode with the other's pictures as a second camera."""
    views = np.stack([part.episode.images, other.episode.images], axis=1)
    return whole(replace(part.episode, images=views))


def test_a_cause_that_only_the_second_camera_shows() -> None:
    forget = [_two(_part(f"bad-{n}"), _part(f"wrist-{n}", sticker=8)) for n in range(4)]
    kept = [_two(_part(f"good-{n}"), _part(f"side-{n}")) for n in range(4)]
    kept.append(_two(_part("odd"), _part("side-9", sticker=8, place=20)))
    # The same patch before the main camera is not what the policy reacted to.
    kept.append(_two(_part("other", sticker=8), _part("side-8")))
    (remark,) = retained_causes(TRANSPLANT, forget, kept, _triggers(forget, kept))
    assert "1 of 6 kept episodes show what stands out in the forget episodes (odd)" in remark
