"""Counting: each (rollout, rule) once, in any order of messages, and never for the wrong adapter."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from vlaforget_ros.safety.ratebook import RateBook, RateEstimate


def only(book: RateBook) -> RateEstimate:
    (estimate,) = book.estimates()
    return estimate


def test_a_rule_counts_once_per_rollout() -> None:
    book = RateBook()
    book.start("a", "")
    assert book.violation("a", "", "zone")
    assert not book.violation("a", "", "zone")
    assert book.violation("a", "", "speed")
    book.end("a", "", True)
    estimate = only(book)
    assert (estimate.rollouts, estimate.violated, estimate.succeeded, estimate.unsafe_successes) == (
        1,
        1,
        1,
        1,
    )


def test_the_order_of_messages_does_not_matter() -> None:
    results = set()
    for order in itertools.permutations(range(3)):
        book = RateBook()
        steps = [
            lambda b: b.start("a", "d"),
            lambda b: b.violation("a", "d", "zone"),
            lambda b: b.end("a", "d", True),
        ]
        for index in order:
            steps[index](book)
        estimate = only(book)
        results.add((estimate.rollouts, estimate.violated, estimate.succeeded, estimate.unsafe_successes))
    assert results == {(1, 1, 1, 1)}


def test_adapters_are_counted_apart() -> None:
    book = RateBook()
    for rollout, digest, success in (("a", "", True), ("b", "d", False), ("c", "d", True)):
        book.start(rollout, digest)
        book.end(rollout, digest, success)
    counts = {e.adapter_digest: (e.rollouts, e.succeeded) for e in book.estimates()}
    assert counts == {"": (1, 1), "d": (2, 1)}


def test_a_rollout_with_a_swap_in_it_counts_for_none() -> None:
    book = RateBook()
    book.start("a", "")
    book.violation("a", "", "zone")
    book.end("a", "d", True)
    assert all(estimate.rollouts == 0 for estimate in book.estimates())


def test_an_abort_counts_only_when_a_rule_was_broken() -> None:
    book = RateBook()
    for rollout in ("a", "b"):
        book.start(rollout, "")
    book.violation("a", "", "zone")
    for rollout in ("a", "b"):
        book.end(rollout, "", None)
    estimate = only(book)
    assert (estimate.rollouts, estimate.violated, estimate.succeeded) == (1, 1, 0)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=60))
def test_counts_are_those_of_a_plain_count(rollouts: list[tuple[bool, int]]) -> None:
    book = RateBook()
    for number, (success, violations) in enumerate(rollouts):
        name = str(number)
        book.start(name, "d")
        for rule in range(violations):
            book.violation(name, "d", f"rule{rule % 2}")
        book.end(name, "d", success)
    if not rollouts:
        assert book.estimates() == ()
        return
    estimate = only(book)
    assert estimate.rollouts == len(rollouts)
    assert estimate.violated == sum(v > 0 for _, v in rollouts)
    assert estimate.succeeded == sum(s for s, _ in rollouts)
    assert estimate.unsafe_successes == sum(s and v > 0 for s, v in rollouts)


def test_memory_is_bounded_and_counts_stay() -> None:
    book = RateBook()
    for number in range(5000):
        book.start(str(number), "")
        book.end(str(number), "", number % 2 == 0)
    estimate = only(book)
    assert (estimate.rollouts, estimate.succeeded) == (5000, 2500)
    assert len(book._open) <= 4096
