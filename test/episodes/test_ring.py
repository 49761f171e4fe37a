"""The ring before an incident, and which messages an incident consists of."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from vlaforget_ros.episodes.recording.ring import Heard, Incidents, Ring

SECOND = 1_000_000_000
VIOLATION = "/safety/violation"
TOPICS = {"/image": False, "/rollout": True, "/instruction": True, VIOLATION: False}


def heard(number: int, topic: str, time_ns: int, size: int = 4) -> Heard:
    return Heard(topic, "", number.to_bytes(4, "little").ljust(size, b"\0"), time_ns, TOPICS[topic])


def number(message: Heard) -> int:
    return int.from_bytes(message.data[:4], "little")


streams = st.lists(
    st.tuples(st.sampled_from(sorted(TOPICS)), st.integers(0, 2 * SECOND), st.integers(4, 60)), max_size=60
)


def stream(parts: list[tuple[str, int, int]]) -> list[Heard]:
    found, now = [], 0
    for index, (topic, gap, size) in enumerate(parts):
        now += gap
        found.append(heard(index, topic, now, size))
    return found


@given(parts=streams, keep=st.integers(0, 5 * SECOND), most=st.integers(0, 400))
def test_a_ring_holds_the_newest_and_the_state_before_them(
    parts: list[tuple[str, int, int]], keep: int, most: int
) -> None:
    ring = Ring(keep, most)
    messages = stream(parts)
    for message in messages:
        ring.add(message)
        assert ring.size_bytes <= most
    window = ring.window()
    kept = window[len(window) - len(ring) :]
    # An unbroken run up to the newest message, as long as both limits allow.
    assert kept == messages[len(messages) - len(kept) :]
    newest = messages[-1].time_ns if messages else 0
    assert all(message.time_ns >= newest - keep for message in kept)
    gone = messages[: len(messages) - len(kept)]
    if gone and gone[-1].time_ns >= newest - keep:
        assert sum(len(m.data) for m in [gone[-1], *kept]) > most
    state = window[: len(window) - len(ring)]
    expected = {topic: m for m in gone if TOPICS[topic := m.topic]}
    assert {m.topic: number(m) for m in state} == {topic: number(m) for topic, m in expected.items()}
    assert all(m.time_ns == (kept[0].time_ns if kept else newest) for m in state)


@given(parts=streams, keep=st.integers(0, 4 * SECOND), after=st.integers(0, 4 * SECOND))
def test_an_incident_is_the_time_around_its_violations(
    parts: list[tuple[str, int, int]], keep: int, after: int
) -> None:
    """Against the definition: a message is in the bag when a violation is near enough, before or after it."""
    incidents = Incidents(Ring(keep, 10**9), after, lambda m: m.topic == VIOLATION)
    bags: list[list[Heard]] = []
    messages = stream(parts)
    for message in messages:
        if incidents.over(message.time_ns):
            incidents.end()
        began = incidents.running
        written = incidents.hear(message)
        if written and not began:
            bags.append([])
        if written:
            bags[-1] += written
    assert incidents.count == len(bags)
    violations = [m for m in messages if m.topic == VIOLATION]
    # Cut the violations where more than `after` passes between them.
    groups: list[list[Heard]] = []
    for violation in violations:
        if groups and violation.time_ns - groups[-1][-1].time_ns <= after:
            groups[-1].append(violation)
        else:
            groups.append([violation])
    assert len(bags) == len(groups)
    for bag, group in zip(bags, groups, strict=True):
        first, until = group[0].time_ns - keep, group[-1].time_ns + after
        inside = [number(m) for m in messages if first <= m.time_ns <= until]
        before = {m.topic: number(m) for m in messages if TOPICS[m.topic] and m.time_ns < first}
        # In the order in which they were said.
        assert [number(m) for m in bag] == sorted(before.values()) + inside
        assert all(earlier.time_ns <= later.time_ns for earlier, later in pairwise(bag))


def test_a_violation_is_written_even_where_the_ring_holds_nothing() -> None:
    incidents = Incidents(Ring(SECOND, 0), 0, lambda m: m.topic == VIOLATION)
    assert incidents.hear(heard(0, "/rollout", 0)) == []
    assert [number(m) for m in incidents.hear(heard(1, VIOLATION, 5))] == [0, 1]


def test_a_clock_that_is_set_back_leaves_only_the_state_of_the_time_before() -> None:
    ring = Ring(10 * SECOND, 10**6)
    ring.add(heard(0, "/rollout", 100 * SECOND))
    ring.add(heard(1, "/image", 101 * SECOND))
    ring.add(heard(2, "/image", 0))
    assert [(number(m), m.time_ns) for m in ring.window()] == [(0, 0), (2, 0)]


def test_a_clock_that_is_set_back_ends_an_incident() -> None:
    incidents = Incidents(Ring(SECOND, 10**6), 10 * SECOND, lambda m: m.topic == VIOLATION)
    incidents.hear(heard(0, VIOLATION, 100 * SECOND))
    assert not incidents.over(109 * SECOND)
    assert incidents.over(111 * SECOND)
    assert incidents.over(2 * SECOND)


def test_what_the_byte_limit_cost_is_counted() -> None:
    ring = Ring(10 * SECOND, 100)
    for index in range(5):
        ring.add(heard(index, "/image", index, size=40))
    assert (len(ring), ring.cut) == (2, 3)
