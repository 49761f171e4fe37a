"""Distances and foreseen violations of a candidate that only computes, by hand."""

from __future__ import annotations

import math

import pytest

from vlaforget_ros.safety.shadow import Position, ShadowBook


def zone(position: Position) -> tuple[str, ...]:
    return ("keep_out/zone",) if position[0] > 0.5 else ()


@pytest.fixture
def book() -> ShadowBook:
    return ShadowBook(zone)


def test_distance_is_measured_in_the_span_of_stables_actions(book: ShadowBook) -> None:
    book.stable("r", 0, (0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    book.stable("r", 1, (0.1, 0.2, 0.4, 1.0), (0.0, 0.0, 0.0))
    book.shadow("r", 0, (0.1, 0.1, 0.0, 0.0), 0)
    book.shadow("r", 1, (0.1, 0.2, 0.4, 1.0), 0)
    result = book.ended("r")
    # Step 0: 0.1/0.1, 0.1/0.2, 0, 0; step 1 the same action.
    assert result.mean_distance == pytest.approx((1.0 + 0.5) / 8)
    assert (result.steps, result.would_be_violations) == (2, 0)


def test_order_of_arrival_is_of_no_matter(book: ShadowBook) -> None:
    book.shadow("r", 0, (0.1, 0.0, 0.0), 0)
    book.stable("r", 0, (0.1, 0.0, 0.0), None)
    assert (book.ended("r").mean_distance, book.ended("r").steps) == (0.0, 0)


def test_a_number_that_stable_never_changes_is_fully_different_where_the_candidate_changes_it(
    book: ShadowBook,
) -> None:
    book.stable("r", 0, (0.1, 0.0, 0.0), None)
    book.shadow("r", 0, (0.1, 0.3, 0.0), 0)
    assert book.ended("r").mean_distance == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("position", "action", "found"),
    [
        ((0.45, 0.0, 0.0), (0.1, 0.0, 0.0), 1),
        ((0.45, 0.0, 0.0), (0.04, 0.0, 0.0), 0),
        # The arm is in the zone already: that is stable's doing.
        ((0.55, 0.0, 0.0), (0.1, 0.0, 0.0), 0),
    ],
)
def test_a_rule_is_foreseen_once(book: ShadowBook, position: Position, action: Position, found: int) -> None:
    for step in range(3):
        book.stable("r", step, (0.0, 0.0, 0.0), position)
        book.shadow("r", step, action, 0)
    assert book.ended("r").would_be_violations == found


def test_faults_and_what_is_not_finite_are_no_data(book: ShadowBook) -> None:
    book.stable("r", 0, (0.0, 0.0, 0.0), None)
    book.shadow("r", 0, (0.0, 0.0, 0.0), 202)
    book.stable("r", 1, (0.0, math.nan, 0.0), None)
    book.shadow("r", 1, (0.0, 0.0, 0.0), 0)
    book.stable("r", 2, (0.0, 0.0, 0.0), None)
    book.shadow("r", 2, (math.inf, 0.0, 0.0), 0)
    result = book.ended("r")
    assert result.steps == 0
    assert math.isnan(result.mean_distance)
