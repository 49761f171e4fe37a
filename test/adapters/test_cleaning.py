"""gc: what serves, what it was made from and what was spoken of lately stays."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from bundle_parts import state

from vlaforget_ros.adapters import AdapterStore, LoraWeights
from vlaforget_ros.adapters.cleaning import clean
from vlaforget_ros.adapters.partials import held
from vlaforget_ros.errors import AdapterError, ErrorCode

MakeWeights = Callable[..., LoraWeights]


@pytest.fixture
def chain(store: AdapterStore, make_weights: MakeWeights) -> dict[str, str]:
    """first -> second -> third (stable), first -> side, lone; all forgotten by the last events but the aliases."""
    found: dict[str, str] = {"": ""}
    for seed, (name, parent) in enumerate(
        [("first", ""), ("second", "first"), ("third", "second"), ("side", "first"), ("lone", "")]
    ):
        said = {"name": name, "method": "npo", "parent_digest": found[parent], "gates_passed": True}
        found[name] = store.add_weights(make_weights(seed), said).digest
    store.alias("stable", found["third"])
    return found


def names(store: AdapterStore) -> set[str]:
    return {manifest.name for manifest in store.manifests()}


def test_the_lineage_of_what_an_alias_names_stays(store: AdapterStore, chain: dict[str, str]) -> None:
    before = sum(path.stat().st_size for path in (store.root / "adapters").rglob("*") if path.is_file())

    cleaned = clean(store, keep=0)

    assert names(store) == {"first", "second", "third"}
    assert [manifest.name for manifest in cleaned.dropped] == ["side", "lone"]
    assert cleaned.kept == {
        chain["third"]: "alias stable",
        chain["second"]: "third was made from it",
        chain["first"]: "second was made from it",
    }
    after = sum(path.stat().st_size for path in (store.root / "adapters").rglob("*") if path.is_file())
    assert cleaned.freed == before - after > 0
    assert all(store.load(digest).modules for digest in store.digests())
    assert store.aliases() == {"stable": chain["third"]}
    assert [event["event"] for event in store.history()][-2:] == ["removed"] * 2


def test_a_dry_run_says_the_same_and_changes_nothing(store: AdapterStore, chain: dict[str, str]) -> None:
    with suppress(ConnectionError), held(store.root / "transfers", "stopped") as partial:
        partial.append(b"half")
        raise ConnectionError
    before = state(store.root)

    said = clean(store, keep=0, dry_run=True)

    assert state(store.root) == before
    assert clean(store, keep=0) == said
    assert said.partials == ("stopped.part",)
    assert list((store.root / "transfers").iterdir()) == []


def test_the_last_events_keep_what_they_mention(store: AdapterStore, chain: dict[str, str]) -> None:
    # Of the last two events one is the move of the alias, the other the addition of lone.
    clean(store, keep=2)
    assert names(store) == {"first", "second", "third", "lone"}


def test_removals_do_not_make_the_history_forget(store: AdapterStore, chain: dict[str, str]) -> None:
    clean(store, keep=2)
    for _ in range(3):
        assert clean(store, keep=2).dropped == ()


def test_an_adapter_that_is_spoken_of_while_others_are_dropped_stays(
    store: AdapterStore, chain: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A swap to it, written between the list of reasons and its removal."""
    remove = AdapterStore.remove

    def swapped_meanwhile(opened: AdapterStore, digest: str, needed: Callable[[], str]) -> None:
        opened.record("swap", chain["lone"], previous_digest="")
        remove(opened, digest, needed)

    monkeypatch.setattr(AdapterStore, "remove", swapped_meanwhile)

    cleaned = clean(store, keep=0)

    assert [manifest.name for manifest in cleaned.dropped] == ["side"]
    assert "swap" in cleaned.kept[chain["lone"]]
    assert names(store) == {"first", "second", "third", "lone"}


def test_what_an_arm_runs_and_what_it_left_stay_however_long_ago_it_was(
    store: AdapterStore, chain: dict[str, str]
) -> None:
    store.record("swap", chain["side"], previous_digest=chain["lone"])
    for _ in range(30):
        store.record("evidence", chain["third"], kind="attacks")

    assert clean(store, keep=5).dropped == ()
    store.record("rollback", "", previous_digest=chain["side"])
    assert [manifest.name for manifest in clean(store, keep=0).dropped] == ["lone"]


def test_the_parent_of_what_the_history_keeps_stays(store: AdapterStore, chain: dict[str, str]) -> None:
    store.alias("stable", "")
    store.alias("previous", "")
    store.record("swap", chain["side"], previous_digest="")

    clean(store, keep=0)

    assert names(store) == {"first", "side"}


def test_an_adapter_that_must_stay_and_cannot_be_read_stops_everything(
    store: AdapterStore, chain: dict[str, str]
) -> None:
    """Its lineage is not known: nothing may be dropped."""
    (store.path(chain["second"]) / "manifest.json").write_text("{}")

    with pytest.raises(AdapterError) as caught:
        clean(store, keep=0)

    assert caught.value.code == ErrorCode.ADAPTER_BAD_DIGEST
    assert len(store.digests()) == 5


def test_a_broken_adapter_that_nobody_needs_is_left_and_named(
    store: AdapterStore, chain: dict[str, str]
) -> None:
    (store.path(chain["lone"]) / "manifest.json").write_text("{}")

    cleaned = clean(store, keep=0)

    assert cleaned.broken == (chain["lone"],)
    assert chain["lone"] in store.digests()


def test_an_empty_store_has_nothing_to_drop(tmp_path: Path) -> None:
    cleaned = clean(AdapterStore(tmp_path / "none"))

    assert (cleaned.dropped, cleaned.freed) == ((), 0)
    assert not (tmp_path / "none").exists()
