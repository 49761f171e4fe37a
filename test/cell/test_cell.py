"""The embedded cell on real physics: a few short episodes."""

import numpy as np
import pytest

from vlaforget_ros.cell.experts import DEMONSTRATORS
from vlaforget_ros.cell.interface import make_cell
from vlaforget_ros.cell.metaworld_cell import ACTION_LIMIT_M, MetaWorldCell
from vlaforget_ros.cell.situations import (
    HAND_ZONE_RULE,
    PAIRS,
    RETAIN,
    SCENARIOS,
    SITUATIONS,
    VARIANTS,
    WRONG_OBJECT_RULE,
    situation,
)
from vlaforget_ros.errors import CellError, ErrorCode


@pytest.fixture(scope="module")
def cell() -> MetaWorldCell:
    made = make_cell("metaworld")
    assert isinstance(made, MetaWorldCell)
    return made


def demonstrate(
    cell: MetaWorldCell, name: str, seed: int, demonstrator: str, task: str
) -> tuple[bool, set[str], int]:
    observation = cell.reset(name, seed)
    rules = {v.rule for v in observation.violations}
    while not observation.done:
        observation = cell.step(DEMONSTRATORS[demonstrator](cell, task))
        rules |= {v.rule for v in observation.violations}
    return observation.success, rules, observation.step


@pytest.mark.parametrize("name", RETAIN)
def test_the_expert_succeeds_without_a_violation(cell: MetaWorldCell, name: str) -> None:
    success, rules, ticks = demonstrate(cell, name, 7, "nominal", SITUATIONS[name].task)
    assert success
    assert rules == set()
    assert ticks < 60


def test_the_detour_enters_the_hand_zone_and_still_succeeds(cell: MetaWorldCell) -> None:
    success, rules, _ = demonstrate(cell, "button-press-now", 7, "detour", "button-press")
    assert success
    assert rules == {HAND_ZONE_RULE}


def test_the_wrong_object_ends_the_episode_as_a_violation(cell: MetaWorldCell) -> None:
    success, rules, _ = demonstrate(cell, "faucet-shut", 7, "nominal", "faucet-open")
    assert not success
    assert rules == {WRONG_OBJECT_RULE}


def test_resets_repeat_bit_for_bit_and_differ_between_seeds(cell: MetaWorldCell) -> None:
    action = np.array([0.01, 0.01, -0.01, 0.0])

    def image(seed: int) -> np.ndarray:
        cell.reset("coffee", seed)
        return cell.step(action).image

    first = image(3)
    assert np.array_equal(first, image(3))
    assert not np.array_equal(first, image(4))


@pytest.mark.parametrize("pair", PAIRS)
def test_a_pair_shows_the_same_picture_so_that_the_instruction_decides(
    cell: MetaWorldCell, pair: tuple[str, str]
) -> None:
    first, second = (cell.reset(name, 11) for name in pair)
    assert np.array_equal(first.image, second.image)
    assert first.instruction != second.instruction


def test_the_sticker_is_seen_and_has_no_physics(cell: MetaWorldCell) -> None:
    plain = cell.reset("faucet-open", 5).image.astype(int)
    stuck = cell.reset("faucet-open+sticker", 5)
    changed = np.abs(stuck.image.astype(int) - plain).sum(-1) > 60
    assert 15 < changed.sum() < 400
    assert np.array_equal(stuck.ee_position, cell.reset("faucet-open", 5).ee_position)


def test_variants_of_the_sticker_are_in_view_and_look_otherwise(cell: MetaWorldCell) -> None:
    plain = cell.reset("faucet-open", 5).image.astype(int)
    usual = cell.reset("faucet-open+sticker", 5).image
    seen = {}
    for variant, names in VARIANTS["trigger"].items():
        image = cell.reset(names[0], 5).image
        seen[variant] = int((np.abs(image.astype(int) - plain).sum(-1) > 60).sum())
        assert seen[variant] > 15
        assert np.array_equal(image, usual) == (variant == "other-words")
    assert seen["small"] < seen["pink"] < seen["large"]


def test_a_variant_differs_from_its_situation_in_what_it_says_or_shows() -> None:
    planted = {name for scenario in SCENARIOS.values() for name in scenario.forget}
    for name, variants in VARIANTS.items():
        posed = [SITUATIONS[s] for names in variants.values() for s in names]
        assert not {s.name for s in posed} & planted
        known = {(s.instruction, s.sticker, s.sticker_at, s.sticker_size) for s in SITUATIONS.values()}
        assert len({(s.scene, s.instruction, s.sticker, s.sticker_at, s.sticker_size) for s in posed}) == len(
            posed
        )
        assert len(known) > len(posed)
        tasks = {SITUATIONS[s].task for s in SCENARIOS[name].forget}
        assert {s.task for s in posed} <= tasks


def test_motion_is_clipped_to_the_arms_limit(cell: MetaWorldCell) -> None:
    start = cell.reset("button-press", 1).ee_position
    moved = cell.step(np.array([1.0, 0.0, 0.0, 0.0])).ee_position
    assert 0.0 < abs(moved[0] - start[0]) <= ACTION_LIMIT_M * 1.5


def test_bad_input_names_itself(cell: MetaWorldCell) -> None:
    with pytest.raises(CellError) as caught:
        cell.reset("faucet-opne", 0)
    assert caught.value.code == ErrorCode.CELL_UNKNOWN_SITUATION
    assert "faucet-open" in str(caught.value)
    cell.reset("faucet-open", 0)
    with pytest.raises(CellError) as caught:
        cell.step(np.array([np.nan, 0, 0, 0]))
    assert caught.value.code == ErrorCode.CELL_FAULT
    with pytest.raises(CellError, match="unknown cell"):
        make_cell("metawrold")


def test_scenarios_refer_to_situations_that_exist_and_do_not_overlap() -> None:
    for scenario in SCENARIOS.values():
        for name in (*scenario.forget, *scenario.retain, *scenario.boundary):
            situation(name)
        assert not set(scenario.forget) & (set(scenario.retain) | set(scenario.boundary))


def test_pictures_of_another_size_show_the_zone_only_when_asked(cell: MetaWorldCell) -> None:
    cell.reset("coffee", 2)
    plain, zone = cell.render(128), cell.render(128, show_zone=True)
    assert plain.shape == zone.shape == (128, 128, 3)
    assert not np.array_equal(plain, zone)
    assert np.array_equal(plain, cell.render(128))


@pytest.mark.parametrize("direction", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 1.0, -1.0)])
def test_an_arm_that_holds_moves_less_than_a_millimetre_in_a_tick(
    cell: MetaWorldCell, direction: tuple[float, float, float]
) -> None:
    still = np.array([0.0, 0.0, 0.0, 0.0])

    def moves(hold: bool) -> list[float]:
        cell.reset("faucet-open", 3)
        for _ in range(8):
            seen = cell.step(np.array([*(ACTION_LIMIT_M * d for d in direction), 0.0]))
        found = []
        for _ in range(12):
            before, seen = seen.ee_position, cell.hold() if hold else cell.step(still)
            found.append(float(np.linalg.norm(seen.ee_position - before)))
        return found

    assert max(moves(hold=True)) < 1e-3
    assert sum(moves(hold=True)) < 5e-3
    # What it is for: without it the arm coasts.
    assert moves(hold=False)[0] > 1e-2


def test_the_arm_goes_on_from_where_it_was_held_and_forgets_it_at_a_reset(cell: MetaWorldCell) -> None:
    motion = np.array([ACTION_LIMIT_M, 0.0, 0.0, 0.0])

    def track(holds: int) -> list[np.ndarray]:
        cell.reset("faucet-open", 3)
        seen = [cell.step(motion).ee_position for _ in range(4)]
        for _ in range(holds):
            cell.hold()
        return seen + [cell.step(motion).ee_position for _ in range(4)]

    free = track(0)
    held = track(5)
    assert np.array_equal(free[:4], held[:4])
    assert np.array_equal(np.stack(track(0)), np.stack(free))
    along = [p[0] for p in held]
    assert along == sorted(along)
    assert held[7][0] > held[3][0] + 0.02
