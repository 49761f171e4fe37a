"""Chains of edits in a store."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vlaforget_ros.adapters import AdapterStore, LoraWeights
from vlaforget_ros.adapters.lineage import chain, chains, events_of
from vlaforget_ros.errors import AdapterError, ErrorCode

MakeWeights = Callable[..., LoraWeights]


def add(store: AdapterStore, weights: LoraWeights, name: str, parent: str = "") -> str:
    reason = f"{name} is not wanted"
    return store.add_weights(
        weights, {"name": name, "method": "vla_forget", "parent_digest": parent, "reason": reason}
    ).digest


@pytest.fixture
def tree(store: AdapterStore, make_weights: MakeWeights) -> dict[str, str]:
    """first → second → third, first → other, and one of its own."""
    first = add(store, make_weights(1, rank=2), "first")
    second = add(store, make_weights(2, rank=4), "second", first)
    third = add(store, make_weights(3, rank=6), "third", second)
    other = add(store, make_weights(4), "other", first)
    return {
        "first": first, "second": second, "third": third, "other": other,
        "alone": add(store, make_weights(5), "alone"),
    }  # fmt: skip


def test_a_chain_leads_from_the_first_edit_to_the_tip(store: AdapterStore, tree: dict[str, str]) -> None:
    store.alias("candidate", tree["third"])
    links = chain(store, tree["third"])
    assert [(link.manifest.name, link.depth) for link in links] == [("first", 0), ("second", 1), ("third", 2)]
    assert [link.manifest.core.rank for link in links] == [2, 4, 6]
    assert links[-1].aliases == ("candidate",)
    row = links[1].row()
    assert (row["reason"], row["parent_digest"], row["rank"]) == ("second is not wanted", tree["first"], 4)


def test_all_chains_name_parents_before_what_was_made_from_them(
    store: AdapterStore, tree: dict[str, str]
) -> None:
    found = [(link.manifest.name, link.depth) for link in chains(store)]
    assert found == [("first", 0), ("second", 1), ("third", 2), ("other", 1), ("alone", 0)]


def test_a_removed_parent_is_named_and_ends_the_chain(store: AdapterStore, tree: dict[str, str]) -> None:
    store.remove(tree["first"])
    links = chain(store, tree["third"])
    assert [(link.manifest.name, link.missing_parent) for link in links] == [
        ("second", tree["first"]),
        ("third", ""),
    ]
    assert {(link.manifest.name, link.depth) for link in chains(store) if link.missing_parent} == {
        ("second", 0),
        ("other", 0),
    }


def test_the_base_model_has_no_chain_and_an_unknown_digest_is_refused(
    store: AdapterStore, tree: dict[str, str]
) -> None:
    assert chain(store, "") == []
    with pytest.raises(AdapterError) as caught:
        chain(store, "9" * 64)
    assert caught.value.code == ErrorCode.ADAPTER_UNKNOWN


def test_events_of_a_chain_are_those_in_which_its_adapters_come_or_go(
    store: AdapterStore, tree: dict[str, str]
) -> None:
    store.record("swap", tree["first"], previous_digest="")
    store.record("swap", tree["alone"], previous_digest=tree["first"])
    store.record("rollback", "", previous_digest=tree["alone"], reason="reaches for the hand")
    found = events_of(store.history(), [tree["first"]])
    assert [(event["event"], event["digest"]) for event in found] == [
        ("added", tree["first"]),
        ("swap", tree["first"]),
        ("swap", tree["alone"]),
    ]
    assert [event["event"] for event in events_of(store.history(), [""])] == ["swap", "rollback"]
