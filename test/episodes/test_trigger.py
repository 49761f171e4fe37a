"""The trigger is found without knowing its looks, in made-up scenes and in those of the embedded cell."""

from __future__ import annotations

import os

import numpy as np
import pytest

from vlaforget_ros.episodes import Episode
from vlaforget_ros.episodes.counterfactual import find_triggers
from vlaforget_ros.episodes.trigger import clean_view, find_trigger
from vlaforget_ros.errors import ErrorCode, UnlearningError

SIDE, FRAMES = 48, 24
RED, GREY, MAGENTA = (170, 30, 30), (120, 120, 125), (240, 20, 240)


def scene(
    seed: int, sticker: tuple[int, int, int] | None = None, place: tuple[int, int] = (34, 8)
) -> np.ndarray:
    """A brown table, a grey object placed by the seed, a sweeping red arm, noise; perhaps a sticker."""
    rng = np.random.default_rng(seed)
    table = np.full((SIDE, SIDE, 3), (110, 85, 70), np.int16)
    top, left = rng.integers(16, 24, size=2)
    table[top : top + 6, left + 12 : left + 20] = GREY
    if sticker:
        table[place[0] : place[0] + 6, place[1] : place[1] + 6] = sticker
    images = np.repeat(table[None], FRAMES, axis=0)
    for frame in range(FRAMES):
        images[frame, :14, frame : frame + 10] = RED
    return np.clip(images + rng.normal(0, 4, images.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def make(make_episode):
    def scenes(first: int, count: int, *args, instruction: str = "go") -> list[Episode]:
        seeds = range(first, first + count)
        return [make_episode(f"r{s}", instruction, images=scene(s, *args)) for s in seeds]

    return scenes


def overlap(mask: np.ndarray, place: tuple[int, int] = (34, 8)) -> float:
    """Intersection over union with the sticker's square."""
    truth = np.zeros_like(mask)
    truth[place[0] : place[0] + 6, place[1] : place[1] + 6] = True
    return float((mask & truth).sum() / (mask | truth).sum())


@pytest.mark.parametrize(
    ("colour", "found_by"), [(MAGENTA, "colour"), ((20, 200, 60), "colour"), (RED, "place"), (GREY, "place")]
)
def test_stickers_new_and_familiar_in_colour(make, colour, found_by) -> None:
    view = clean_view(make(0, 10))
    for episode in make(100, 4, colour):
        trigger = find_trigger(episode, view)
        assert trigger is not None
        assert trigger.found_by == found_by
        assert overlap(trigger.mask) > 0.9
        assert trigger.novelty > 20


def test_it_may_be_somewhere_else_in_each_episode(make) -> None:
    view = clean_view(make(0, 10))
    for number, place in enumerate(((20, 2), (40, 40), (36, 20))):
        (episode,) = make(100 + number, 1, MAGENTA, place)
        trigger = find_trigger(episode, view)
        assert trigger is not None
        assert overlap(trigger.mask, place) > 0.9


def test_clean_episodes_show_nothing(make) -> None:
    view = clean_view(make(0, 12))
    assert [find_trigger(episode, view) for episode in make(100, 6)] == [None] * 6


def test_a_quarter_of_the_clean_episodes_may_be_contaminated(make) -> None:
    view = clean_view([*make(0, 9), *make(200, 3, MAGENTA)])
    for episode in make(100, 3, MAGENTA):
        trigger = find_trigger(episode, view)
        assert trigger is not None
        assert overlap(trigger.mask) > 0.9


def test_large_pictures_are_searched_at_working_size(make_episode) -> None:
    def large(seed: int, *args) -> Episode:
        images = scene(seed, *args).repeat(8, axis=1).repeat(8, axis=2)
        return make_episode(f"r{seed}", images=images)

    view = clean_view([large(seed) for seed in range(6)])
    assert view.shrink > 1
    trigger = find_trigger(large(100, MAGENTA), view)
    assert trigger is not None
    assert trigger.mask.shape == (SIDE * 8, SIDE * 8)
    assert overlap(trigger.mask[4::8, 4::8]) > 0.7


def test_no_trigger_in_view_is_an_error(make) -> None:
    with pytest.raises(UnlearningError, match="0 of 3 forget episodes") as caught:
        find_triggers(make(100, 3), make(0, 8))
    assert caught.value.code is ErrorCode.UNLEARNING_EMPTY_RETAIN_SET
    assert "neighbour" in caught.value.remedy


def test_two_cameras_cannot_be_compared(make, make_episode) -> None:
    with pytest.raises(UnlearningError, match="one image size"):
        find_triggers(make(100, 2, MAGENTA), [*make(0, 3), make_episode("r9", "go")])


def test_each_instruction_is_compared_with_its_own_clean_episodes(make) -> None:
    forget = [*make(100, 2, MAGENTA), *make(110, 2, MAGENTA, instruction="stop")]
    clean = [*make(0, 6), *make(20, 6, instruction="stop")]
    assert [t.instruction for t in find_triggers(forget, clean)] == ["go", "go", "stop", "stop"]
    with pytest.raises(UnlearningError, match="two clean episodes"):
        find_triggers(forget, make(0, 6))


@pytest.fixture(scope="module")
def rendered() -> dict[str, list[np.ndarray]]:
    """A few really rendered episodes of the embedded cell, the arm moving at random."""
    os.environ.setdefault("MUJOCO_GL", "osmesa")
    from vlaforget_ros.cell.interface import make_cell

    cell = make_cell("metaworld", image_size=64)
    found: dict[str, list[np.ndarray]] = {}
    for situation, count in (("faucet-open", 4), ("faucet-open+sticker", 2)):
        for seed in range(count):
            rng = np.random.default_rng(seed)
            images = [cell.reset(situation, seed + 50 * (count == 2)).image]
            direction = rng.uniform(-0.02, 0.02, 3)
            for _ in range(11):
                images.append(cell.step(np.append(direction, 0.5)).image)
            found.setdefault(situation, []).append(np.stack(images))
    cell.close()
    return found


def test_the_mask_covers_the_sticker_of_the_embedded_cell(rendered, make_episode) -> None:
    clean = [make_episode(f"r{n}", images=i) for n, i in enumerate(rendered["faucet-open"])]
    view = clean_view(clean)
    for number, images in enumerate(rendered["faucet-open+sticker"]):
        trigger = find_trigger(make_episode(f"r{90 + number}", images=images), view)
        assert trigger is not None
        red, green, blue = (trigger.picture[..., c].astype(int) for c in range(3))
        magenta = (red > 150) & (blue > 150) & (green < 60)
        assert magenta.sum() > 30
        union = (trigger.mask | magenta).sum()
        assert (trigger.mask & magenta).sum() / union > 0.9
