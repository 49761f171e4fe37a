"""Repair sources: what the policy should do where it must unlearn, made from episodes alone."""

from __future__ import annotations

import numpy as np
import pytest

from vlaforget_ros.episodes import Selection, clean_successes, neighbour, select, transplant
from vlaforget_ros.episodes.counterfactual import find_triggers, paste
from vlaforget_ros.episodes.trigger import Trigger
from vlaforget_ros.errors import ErrorCode, UnlearningError

from .conftest import SECOND, violation
from .test_trigger import MAGENTA, RED, scene


def magenta(images: np.ndarray) -> np.ndarray:
    pixels = images.astype(int)
    return (pixels[..., 0] > 190) & (pixels[..., 1] < 80) & (pixels[..., 2] > 190)


@pytest.fixture
def recorded(make_episode):
    """Forget: a sticker and a violation. Clean: none of both, and another instruction."""
    forget = [
        make_episode(f"r{s}", "go", images=scene(s, MAGENTA), violations=[violation(SECOND)])
        for s in (100, 101, 102)
    ]
    clean = [make_episode(f"r{s}", "go", images=scene(s)) for s in range(6)]
    clean += [make_episode(f"r{s}", "stop", images=scene(s)) for s in (10, 11)]
    return forget, select(clean, Selection())


def test_clean_successes_are_of_the_same_instruction_and_safe(make_episode) -> None:
    bad = make_episode("r0", "go", violations=[violation(SECOND)])
    episodes = [
        bad,
        make_episode("r1", "go"),
        make_episode("r2", "go", success=False),
        make_episode("r3", "go", success=None),
        make_episode("r4", "stop"),
        make_episode("r5", "go", violations=[violation(SECOND)]),
    ]
    frames = clean_successes(episodes, [bad])
    assert set(frames.actions[:, 1]) == {1.0}
    assert frames.origin == "1 clean successes of 'go'"
    with pytest.raises(UnlearningError, match="no successful episode") as caught:
        clean_successes([bad], [bad])
    assert caught.value.code is ErrorCode.UNLEARNING_EMPTY_RETAIN_SET


def test_transplanted_frames_show_the_trigger_and_keep_their_actions(recorded) -> None:
    forget, clean = recorded
    frames = transplant(forget, clean, seed=1)
    assert len(frames) == 6 * 24
    assert set(frames.instructions) == {"go"}
    for number in range(6):
        episode = clean[number].episode
        rows = frames.episodes == episode.rollout_id
        assert np.array_equal(frames.actions[rows], episode.actions)
        assert not magenta(episode.images).any()
        found = magenta(frames.images[rows])
        assert (found.sum(axis=(1, 2)) >= 30).all()
        ys, xs = np.nonzero(found.any(axis=0))
        assert (ys.min(), ys.max(), xs.min(), xs.max()) == (34, 39, 8, 13)
        # Nothing but the sticker and its rim has changed.
        changed = np.abs(frames.images[rows].astype(int) - episode.images).max(axis=(0, 3)) > 0
        changed[32:42, 6:16] = False
        assert not changed.any()
    assert frames.origin.startswith("trigger of 3 episodes transplanted onto 6 clean ones")


def test_clean_episodes_stay_as_they_were(recorded) -> None:
    forget, clean = recorded
    before = [part.episode.images.copy() for part in clean]
    transplant(forget, clean)
    assert all(np.array_equal(part.episode.images, old) for part, old in zip(clean, before, strict=True))


def test_jitter_moves_the_trigger_and_the_seed_decides_where(recorded) -> None:
    forget, clean = recorded
    frames = transplant(forget, clean, seed=1, jitter_px=3)
    corners = {tuple(np.argwhere(magenta(image)).min(axis=0)) for image in frames.images}
    assert len(corners) > 20
    assert all(31 <= y <= 37 and 5 <= x <= 11 for y, x in corners)
    assert transplant(forget, clean, seed=1, jitter_px=3).digest() == frames.digest()
    assert transplant(forget, clean, seed=2, jitter_px=3).digest() != frames.digest()


def test_other_instructions_only_when_asked(recorded) -> None:
    forget, clean = recorded
    frames = transplant(forget, clean, other_instructions=True)
    assert set(frames.instructions) == {"go", "stop"}
    assert magenta(frames.images[-1]).sum() >= 30
    with pytest.raises(UnlearningError, match="no clean episode"):
        transplant(forget, [part for part in clean if part.episode.instruction == "stop"])


def test_what_stands_in_front_stays_in_front() -> None:
    background = np.full((20, 20, 3), 100, np.uint8)
    image = background.copy()
    image[:, 8:10] = RED  # the arm
    mask = np.zeros((20, 20), bool)
    mask[5:12, 5:12] = True
    picture = np.full((20, 20, 3), MAGENTA, np.uint8)
    trigger = Trigger(mask, picture, "r0", "go", 100.0, "colour")
    pasted = paste(image, background, trigger)
    assert (pasted[:, 8:10] == RED).all()
    assert (pasted[6:11, 5:8] == MAGENTA).all()
    assert (pasted[0] == image[0]).all()


@pytest.mark.parametrize(("down", "right"), [(0, 0), (3, -4), (-12, 9), (30, 0)])
def test_a_shifted_trigger_leaves_the_picture_at_its_edges(down: int, right: int) -> None:
    background = np.full((20, 20, 3), 100, np.uint8)
    mask = np.zeros((20, 20), bool)
    mask[5:10, 5:10] = True
    trigger = Trigger(mask, np.full((20, 20, 3), MAGENTA, np.uint8), "r0", "go", 100.0, "colour")
    found = magenta(paste(background, background, trigger, down, right))
    expected = np.zeros((20, 20), bool)
    top, left = 5 + down, 5 + right
    expected[max(top, 0) : max(top + 5, 0), max(left, 0) : max(left + 5, 0)] = True
    assert np.array_equal(found, expected)


def test_the_neighbours_frames_get_the_unsafe_instruction(make_episode) -> None:
    clean = select(
        [make_episode("r1", "close the faucet"), make_episode("r2", "open the faucet")], Selection()
    )
    frames = neighbour(clean, "close the faucet", "shut the faucet")
    assert set(frames.instructions) == {"shut the faucet"}
    assert set(frames.actions[:, 1]) == {1.0}
    assert frames.origin == "1 clean episodes of 'close the faucet', relabelled 'shut the faucet'"
    with pytest.raises(UnlearningError, match="did you mean close the faucet"):
        neighbour(clean, "close the fawcet", "shut the faucet")


def two_views(seed: int, main: bool, second: bool) -> np.ndarray:
    """(T, 2, H, W, 3) with the sticker in the main picture, in the second one, or in both."""
    views = [
        scene(seed, MAGENTA if main else None),
        scene(seed + 500, MAGENTA if second else None)[:, :, ::-1],
    ]
    return np.stack(views, axis=1)


@pytest.mark.parametrize(("main", "second"), [(True, True), (False, True), (True, False)])
def test_the_trigger_is_pasted_in_each_camera_that_shows_it(make_episode, main: bool, second: bool) -> None:
    forget = [make_episode(f"r{s}", "go", images=two_views(s, main, second)) for s in (100, 101, 102)]
    clean = [make_episode(f"r{s}", "go", images=two_views(s, False, False)) for s in range(5)]
    found = find_triggers(forget, clean)
    cameras = [camera for camera, shown in enumerate((main, second)) if shown]
    assert {t.rollout_id: [u.camera for u in found if u.rollout_id == t.rollout_id] for t in found} == {
        episode.rollout_id: cameras for episode in forget
    }
    frames = transplant(forget, select(clean, Selection()), seed=1)
    assert "trigger of 3 episodes" in frames.origin
    for camera in range(2):
        pasted = magenta(frames.images[:, camera]).sum(axis=(1, 2)) > 20
        assert np.all(pasted == (camera in cameras))
        untouched = [
            (frames.images[frames.episodes == e.rollout_id] == e.images)[:, camera].all() for e in clean
        ]
        assert np.all(untouched) == (camera not in cameras)


def test_recordings_of_one_and_of_two_cameras_are_not_compared(make_episode) -> None:
    forget = [make_episode("r100", "go", images=two_views(100, True, True))]
    clean = [make_episode(f"r{s}", "go", images=scene(s)) for s in range(3)]
    with pytest.raises(UnlearningError, match="different cameras") as caught:
        find_triggers(forget, clean)
    assert caught.value.code is ErrorCode.UNLEARNING_BAD_REQUEST
