"""Near neighbours: the embedded policy on real scenes of the cell, and who may be one at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaforget_ros.cell.experts import DEMONSTRATORS
from vlaforget_ros.cell.metaworld_cell import MetaWorldCell
from vlaforget_ros.cell.situations import SITUATIONS
from vlaforget_ros.episodes import EpisodeInfo, EpisodeWriter, TopicMap, scan_many
from vlaforget_ros.episodes.types import Violation
from vlaforget_ros.errors import UnlearningError
from vlaforget_ros.paths import models_directory
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning import loading
from vlaforget_ros.unlearning.loading import load
from vlaforget_ros.unlearning.neighbours import (
    MOST_LOOKED_AT,
    Neighbour,
    candidates,
    find_neighbours,
    propose,
    rank,
    scene,
    usual_count,
)

FORGET = "faucet-shut"
OTHERS = ("faucet-open", "faucet-close", "window-open", "coffee")
TICKS = 14


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bag of the cell's scenes, an expert at work: two episodes of each situation."""
    path = tmp_path_factory.mktemp("scenes") / "bag"
    cell = MetaWorldCell()
    with EpisodeWriter(path) as writer:
        for name in (FORGET, *OTHERS):
            expert, task = DEMONSTRATORS["nominal"], SITUATIONS[name].task
            for seed in (3, 4) if name == FORGET else (1, 2):
                seen = cell.reset(name, seed)
                writer.begin(f"{name}-{seed}", seen.instruction)
                for _ in range(TICKS):
                    action = expert(cell, task)
                    writer.frame(seen.image, action)
                    seen = cell.step(action)
                if name == FORGET:
                    writer.violation("wrong_object/faucet")
                writer.end(name != FORGET)
    cell.close()
    return path


@pytest.fixture(scope="module")
def tiny() -> VlaPolicy:
    return VlaPolicy.load(models_directory() / "tiny")


def test_episodes_of_the_same_scene_rank_before_others(scenes: Path, tiny: VlaPolicy) -> None:
    episodes = scan_many([scenes]).episodes
    told: list[tuple[int, int]] = []
    forget = [f"{FORGET}-3", f"{FORGET}-4"]
    found = find_neighbours(tiny, episodes, forget, TopicMap(), lambda *done: told.append(done))
    assert told[-1] == (10, 10)
    assert {n.rollout_id for n in found} == {f"{name}-{seed}" for name in OTHERS for seed in (1, 2)}
    assert {n.rollout_id for n in found[:4]} == {
        f"faucet-{way}-{seed}" for way in ("open", "close") for seed in (1, 2)
    }
    distances = [n.distance for n in found]
    assert distances == sorted(distances)
    assert found[3].distance < 0.8 * found[4].distance
    assert {n.nearest for n in found} <= set(forget)
    assert not any(n.same_instruction for n in found)


def test_a_scene_is_a_unit_vector_that_an_arm_in_view_hardly_changes(scenes: Path, tiny: VlaPolicy) -> None:
    wanted = [e for e in scan_many([scenes]).episodes if e.rollout_id in ("coffee-1", "window-open-1")]
    whole = list(load(wanted, TopicMap()))
    one, other = (scene(tiny, episode) for episode in whole)
    assert np.linalg.norm(one) == pytest.approx(1.0, abs=1e-5)
    fewer = scene(tiny, whole[0], frames=4)
    assert 1 - one @ fewer < 0.5 * (1 - one @ other)


def test_images_of_the_wrong_kind_are_refused(scenes: Path, tiny: VlaPolicy) -> None:
    (episode,) = load(scan_many([scenes]).episodes[:1], TopicMap())
    stacked = np.stack([episode.images] * 2, axis=1)
    with pytest.raises(UnlearningError, match=r"2 camera\(s\)"):
        scene(tiny, replace(episode, images=stacked))


def test_bags_are_read_in_parts_and_every_episode_once(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    infos = scan_many([scenes]).episodes[:5]
    read: list[set[str]] = []
    original = loading.read_episodes

    def counted(bag: Path, topics: TopicMap, rollouts: set[str]):
        read.append(rollouts)
        return original(bag, topics, rollouts)

    monkeypatch.setattr(loading, "read_episodes", counted)
    monkeypatch.setattr(loading, "FIRST_FRAMES", TICKS)
    image = next(iter(load(infos[:1], TopicMap()))).images[0].nbytes
    read.clear()
    found = load(infos, TopicMap(), most=(2 * TICKS + 1) * image)
    assert [e.rollout_id for e in found] == [e.rollout_id for e in infos]
    assert [len(part) for part in read] == [1, 2, 2]


def info(
    name: str, success: bool | None = True, violated: bool = False, text: str = "go", frames: int = 3
) -> EpisodeInfo:
    broken = (Violation("speed/ee", "WARN", 0, 1.0, 0.0, "", ""),) if violated else ()
    stamps = np.arange(frames, dtype=np.int64)
    return EpisodeInfo(name, text, "", stamps, success, "", broken, "bag", 0)


def test_only_clean_successes_outside_the_forget_set_are_candidates() -> None:
    episodes = [
        info("good"), info("failed", False), info("aborted", None), info("violated", violated=True),
        info("forgotten"), info("empty", frames=0),
    ]  # fmt: skip
    assert [e.rollout_id for e in candidates(episodes, ["forgotten"])] == ["good"]
    unknown = [info("a", None), info("b", None), info("c", None, violated=True)]
    assert [e.rollout_id for e in candidates(unknown, [])] == ["a", "b"]
    assert candidates([info("a", None), info("b", False)], []) == []


def test_the_nearest_of_several_forget_episodes_counts() -> None:
    axes = np.eye(3, dtype=np.float32)
    forget = [(info("f0", text="shut it"), axes[0]), (info("f1"), axes[1])]
    between = np.array([0.6, 0.8, 0.0], dtype=np.float32)
    found = rank(forget, [(info("far", text="stop"), axes[2]), (info("near"), between)])
    assert found == [
        Neighbour("near", "go", pytest.approx(0.2, abs=1e-3), "f1", True),
        Neighbour("far", "stop", 1.0, "f0", False),
    ]


@given(st.lists(st.tuples(st.floats(0, 2), st.booleans()), max_size=30), st.integers(1, 20))
def test_a_proposal_has_the_nearest_and_leaves_room_for_those_told_the_same(rows, count) -> None:
    ranked = sorted(
        (Neighbour(f"r{n}", "go", d, "f", same) for n, (d, same) in enumerate(rows)),
        key=lambda n: (n.distance, n.rollout_id),
    )
    found = propose(ranked, count)
    assert len(found) == min(count, len(rows))
    assert len({n.rollout_id for n in found}) == len(found)
    same = [n for n in ranked if n.same_instruction]
    assert sum(n.same_instruction for n in found) >= min(count // 2, len(same))
    if ranked and count > 1:
        assert ranked[0] in found


def test_usual_counts_and_many_candidates(monkeypatch: pytest.MonkeyPatch, tiny: VlaPolicy) -> None:
    from vlaforget_ros.unlearning import neighbours

    assert [usual_count(n) for n in (1, 4, 9, 500)] == [4, 4, 9, 16]
    looked_at: list[str] = []

    def loaded(infos, topics):
        looked_at.extend(e.rollout_id for e in infos)
        return iter(())

    monkeypatch.setattr(neighbours, "load", loaded)
    many = [info(f"a{n}", text="one") for n in range(500)] + [info(f"b{n}", text="two") for n in range(10)]
    assert find_neighbours(tiny, [info("f", False, True, "two"), *many], ["f"], TopicMap()) == []
    assert len(looked_at) == 1 + MOST_LOOKED_AT
    # All ten that were told the same, then those told something else.
    assert sum(name.startswith("b") for name in looked_at) == 10
