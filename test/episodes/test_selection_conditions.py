"""Selections by object, by an operator's flag and by time."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vlaforget_ros.episodes import Selection, Violation, select, select_forget
from vlaforget_ros.episodes.flags import OPERATOR_RULE, flag_message, is_flag
from vlaforget_ros.episodes.moments import moment_ns, moment_text, parse_moment
from vlaforget_ros.episodes.objects import names_object
from vlaforget_ros.errors import UnlearningError

from .conftest import SECOND, STEP, violation

WALL = 1_700_000_000 * SECOND


def flag(stamp_ns: int, rule: str = OPERATOR_RULE, note: str = "") -> Violation:
    return Violation(rule, "WARN", stamp_ns, 1.0, 0.0, "", flag_message(note))


@pytest.fixture
def episodes(make_episode):
    return [
        make_episode("r0", "lift the mug", start_ns=WALL),
        make_episode("r1", "put two Mugs on the shelf", start_ns=WALL + 60 * SECOND),
        make_episode("r2", "close the cupboard", violations=[flag(SECOND)], start_ns=WALL + 120 * SECOND),
        make_episode("r3", "lift the cup", violations=[violation(SECOND)], start_ns=WALL + 180 * SECOND),
        make_episode(
            "r4",
            "lift the mug",
            violations=[flag(STEP, "keep_out/hand_zone", "too near"), violation(15 * STEP)],
        ),
    ]


@pytest.mark.parametrize(
    ("conditions", "chosen"),
    [
        ({"object": "mug"}, "014"),
        ({"objects": ["cup"]}, "3"),
        ({"objects": ["cup*"]}, "23"),
        ({"objects": ["cup", "mugs"]}, "0134"),
        ({"object": "the mug"}, "04"),
        ({"flagged": True}, "24"),
        ({"flagged": False}, "013"),
        ({"flagged": True, "violation_rule": "keep_out/*"}, "4"),
        ({"flagged": False, "has_violation": True}, "3"),
        ({"since": 1_700_000_060}, "123"),
        ({"since": 1_700_000_060.001}, "23"),
        ({"until": 1_700_000_060}, "04"),
        ({"since": "2023-11-14T22:14:20Z", "until": "2023-11-14T23:15:20+01:00"}, "1"),
        ({"since": datetime.datetime(2023, 11, 14, 22, 15, 20, tzinfo=datetime.UTC)}, "23"),
        ({"until": "100"}, "4"),
    ],
)
def test_conditions(episodes, conditions, chosen) -> None:
    slices = select(episodes, Selection(**conditions))
    assert "".join(part.episode.rollout_id[1:] for part in slices) == chosen


def test_windows_of_flags_are_around_the_flags(episodes) -> None:
    (part,) = select([episodes[4]], Selection(flagged=True, before_s=0.1, after_s=0.0))
    assert part.indices.tolist() == [0, 1]


def test_what_the_monitor_writes_for_a_flag_is_known_as_one() -> None:
    assert is_flag(flag(0))
    assert is_flag(flag(0, "keep_out/hand_zone"))
    assert is_flag(flag(0, "keep_out/hand_zone", "it hit the table"))
    assert not is_flag(violation(0))


@pytest.mark.parametrize(
    ("instruction", "thing", "named"),
    [
        ("pick up the red block", "red block", True),
        ("pick up the red block", "block red", False),
        ("Open the Boxes!", "box", True),
        ("take the knife", "knives", True),
        ("wash the berries", "berry", True),
        ("wipe the glass", "glas", False),
        ("wash the glasses", "glass", True),
        ("press the bus stop", "bu", False),
        ("press the buttons", "butt*", True),
        ("press the button", " ", False),
    ],
)
def test_objects_are_whole_words_in_any_number(instruction: str, thing: str, named: bool) -> None:
    assert names_object(instruction, thing) is named


@given(
    st.lists(st.sampled_from(["cup", "mugs", "box", "the", "a", "red", "table"]), min_size=1, max_size=6),
    st.data(),
)
def test_every_run_of_words_of_an_instruction_is_named_by_it(words, data) -> None:
    start = data.draw(st.integers(0, len(words) - 1))
    end = data.draw(st.integers(start + 1, len(words)))
    assert names_object(" ".join(words).upper(), " ".join(words[start:end]))


@given(st.integers(0, 2**61))
def test_a_shown_moment_is_the_moment_to_a_millisecond(stamp_ns: int) -> None:
    assert abs(moment_ns(parse_moment(moment_text(stamp_ns))) - stamp_ns) <= 1_000_000


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("2026-11-20T14:05:00", "no time zone"),
        (datetime.datetime(2026, 11, 20), "no time zone"),
        (datetime.date(2026, 11, 20), "a day"),
        ("yesterday", "no moment"),
        (float("nan"), "no moment"),
        (True, "no moment"),
        ([1], "no moment"),
    ],
)
def test_no_moments(value, why) -> None:
    with pytest.raises(ValidationError, match=why):
        Selection(since=value)


def test_times_that_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="is not before"):
        Selection(since="2026-11-20T14:05:00Z", until="2026-11-20T15:05:00+01:00")


@pytest.mark.parametrize(
    ("conditions", "remedy"),
    [
        ({"object": "mgu"}, "no instruction names 'mgu': did you mean mug"),
        ({"since": "2030-01-01T00:00:00Z"}, "episodes begin from 0.000 to 2023-11-14T22:16:20.000Z"),
        ({"flagged": True, "object": "cup"}, "loosen"),
    ],
)
def test_an_empty_set_says_what_to_change(episodes, conditions, remedy) -> None:
    with pytest.raises(UnlearningError) as caught:
        select_forget(episodes, Selection(**conditions))
    assert remedy in caught.value.remedy


def test_no_flag_at_all(episodes) -> None:
    with pytest.raises(UnlearningError, match="no episode was flagged"):
        select_forget(episodes[:2], Selection(flagged=True))


def test_what_was_added_is_written_only_where_it_is_set() -> None:
    assert not {"objects", "flagged", "since", "until"} & Selection().model_dump(mode="json").keys()
    chosen = Selection(object="mug", flagged=False, since="2026-11-20T14:05Z")
    assert Selection.model_validate(chosen.model_dump(mode="json")) == chosen
    assert chosen.model_dump(mode="json")["since"] == "2026-11-20T14:05:00+00:00"
