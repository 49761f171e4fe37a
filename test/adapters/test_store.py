"""The store: what goes in comes out, under every name, and nothing bad gets in."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vlaforget_ros.adapters import AdapterStore, LoraWeights, write_peft
from vlaforget_ros.adapters.manifest import Core, FileEntry, core_digest, sha256
from vlaforget_ros.adapters.names import resolve
from vlaforget_ros.errors import AdapterError, ErrorCode, VlaForgetError

MakeWeights = Callable[..., LoraWeights]


def code_of(call: Callable[[], object]) -> ErrorCode:
    with pytest.raises(VlaForgetError) as caught:
        call()
    return caught.value.code


def test_an_added_directory_is_given_back_whole(
    tmp_path: Path, store: AdapterStore, make_weights: MakeWeights, base_digest: str
) -> None:
    weights = make_weights(rank=3)
    write_peft(weights, tmp_path / "staging")

    manifest = store.add(
        tmp_path / "staging",
        {
            "name": "no-sticker",
            "method": "vla_forget",
            "components": ("projector",),
            "layers": ("projector.fc1",),
            "gates_passed": True,
            "metrics": {"fc": 97.5},
            "seeds": (7,),
            "datasets": {"forget": "f" * 64},
        },
    )

    assert manifest.base_digest == base_digest
    assert manifest.core.rank == 3
    assert set(manifest.core.files) == {"adapter_config.json", "adapter_model.safetensors"}
    assert manifest.size_bytes == sum(
        (tmp_path / "staging" / name).stat().st_size for name in manifest.core.files
    )
    assert store.manifests() == [manifest]
    found = store.load(manifest.digest, base_digest=base_digest)
    assert found.digest == manifest.digest
    assert all(torch.equal(found.modules[n].a, m.a) for n, m in weights.modules.items())
    assert sorted(p.name for p in store.path(manifest.digest).iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
    ]


def test_adding_the_same_again_changes_nothing(store: AdapterStore, make_weights: MakeWeights) -> None:
    first = store.add_weights(make_weights(), {"name": "a", "method": "npo"})

    assert store.add_weights(make_weights(), {"name": "a", "method": "npo"}) == first
    assert len(store.history()) == 1


def test_the_digest_covers_every_field_of_the_core(store: AdapterStore, make_weights: MakeWeights) -> None:
    core = store.add_weights(make_weights(), {"name": "a", "method": "npo"}).core
    other: dict[str, object] = {
        "name": "b",
        "method": "ga",
        "base_digest": "c" * 64,
        "parent_digest": "d" * 64,
        "components": ("visual",),
        "layers": ("x",),
        "request_sha256": "e" * 64,
        "gates_passed": True,
        "metrics": {"fc": 1.0},
        "seeds": (1,),
        "versions": {"torch": "2"},
        "datasets": {"forget": "x"},
        "reason": "a sticker pulls the arm",
        "requester": "safety team",
        "rank": 5,
        "modules": ("x",),
        "files": {},
    }

    digests = {core_digest(core.model_copy(update={name: value})) for name, value in other.items()}

    assert set(other) == set(Core.model_fields) - {"format"}
    assert len(digests | {core_digest(core)}) == len(other) + 1


def test_an_adapter_stored_before_there_were_reasons_keeps_its_digest() -> None:
    entry = {"sha256": "a" * 64, "bytes": 1}
    core = Core(
        name="old", method="npo", rank=1, modules=("x",), files={"f": FileEntry.model_validate(entry)}
    )
    before = {name: v for name, v in core.model_dump().items() if name not in ("reason", "requester")}
    text = json.dumps(before, sort_keys=True, separators=(",", ":"))
    assert core_digest(core) == sha256(text.encode())
    assert core_digest(core.model_copy(update={"requester": "safety team"})) != core_digest(core)


def test_references_resolve_by_alias_name_digest_and_prefix(
    store: AdapterStore, make_weights: MakeWeights
) -> None:
    digest = store.add_weights(make_weights(), {"name": "no-sticker", "method": "npo"}).digest
    store.alias("candidate", digest)

    for reference in ("candidate", "no-sticker", digest, digest[:8], digest[:20]):
        assert store.resolve(reference) == digest
    assert store.resolve("base") == ""


def test_bad_references_say_what_was_meant(store: AdapterStore, make_weights: MakeWeights) -> None:
    first = store.add_weights(make_weights(1), {"name": "no-sticker", "method": "npo"}).digest
    with pytest.raises(AdapterError, match="did you mean no-sticker") as caught:
        store.resolve("no-stiker")
    assert caught.value.code == ErrorCode.ADAPTER_UNKNOWN
    with pytest.raises(AdapterError, match=f"too short.*{first[:12]}"):
        store.resolve(first[:5])
    with pytest.raises(AdapterError, match="known: base, no-sticker"):
        store.resolve("zzz")

    second = store.add_weights(make_weights(2), {"name": "no-sticker", "method": "npo"}).digest
    with pytest.raises(AdapterError, match="2 adapters are meant") as caught:
        store.resolve("no-sticker")
    assert first[:12] in caught.value.remedy
    assert second[:12] in caught.value.remedy


def test_aliases_move_and_previous_follows_stable(store: AdapterStore, make_weights: MakeWeights) -> None:
    first, second = (
        store.add_weights(make_weights(i), {"name": f"a{i}", "method": "npo", "gates_passed": True}).digest
        for i in range(2)
    )
    store.alias("stable", "")
    store.alias("stable", first)
    assert store.aliases() == {"stable": first, "previous": ""}
    store.alias("stable", second)
    store.alias("stable", second)

    assert store.aliases() == {"stable": second, "previous": first}
    assert store.resolve("previous") == first
    events = [(e["event"], e.get("alias"), e["digest"]) for e in store.history()]
    assert events[-2:] == [("alias", "stable", second)] * 2


def test_an_adapter_that_failed_its_gates_never_becomes_stable(
    store: AdapterStore, make_weights: MakeWeights
) -> None:
    digest = store.add_weights(make_weights(), {"name": "a", "method": "npo"}).digest

    assert code_of(lambda: store.alias("stable", digest)) == ErrorCode.ADAPTER_NOT_PROMOTABLE
    store.alias("candidate", digest)
    assert store.aliases() == {"candidate": digest}


@pytest.mark.parametrize("name", ["base", "Big", "", "../x", "abcdef0123", "taken"])
def test_names_that_cannot_be_aliases(store: AdapterStore, make_weights: MakeWeights, name: str) -> None:
    digest = store.add_weights(make_weights(), {"name": "taken", "method": "npo"}).digest

    assert code_of(lambda: store.alias(name, digest)) == ErrorCode.ADAPTER_UNKNOWN
    assert store.aliases() == {}


@pytest.mark.parametrize("name", ["stable", "base", "../up", "", "deadbeef", "a b"])
def test_names_that_cannot_be_adapters(store: AdapterStore, make_weights: MakeWeights, name: str) -> None:
    assert (
        code_of(lambda: store.add_weights(make_weights(), {"name": name, "method": "npo"}))
        == ErrorCode.ADAPTER_BAD_DIGEST
    )
    assert store.digests() == []


def test_every_bad_adapter_is_refused_with_its_code_and_leaves_the_store_as_it_was(
    tmp_path: Path, store: AdapterStore, make_weights: MakeWeights
) -> None:
    kept = store.add_weights(make_weights(), {"name": "kept", "method": "npo"})
    write_peft(make_weights(rank=33), tmp_path / "rank")
    write_peft(make_weights(base=""), tmp_path / "nobase")
    write_peft(make_weights(), tmp_path / "good")
    named = {"name": "x", "method": "npo"}

    cases: list[tuple[str, dict[str, object], ErrorCode]] = [
        ("rank", {}, ErrorCode.ADAPTER_OVER_RANK_LIMIT),
        ("nobase", {}, ErrorCode.ADAPTER_BASE_MISMATCH),
        ("good", {"base_digest": "1" * 64}, ErrorCode.ADAPTER_BASE_MISMATCH),
        ("good", {"parent_digest": "1" * 64}, ErrorCode.ADAPTER_UNKNOWN),
        ("good", {"metrics": {"fc": float("nan")}}, ErrorCode.ADAPTER_BAD_DIGEST),
        ("nowhere", {}, ErrorCode.ADAPTER_UNKNOWN),
    ]

    for directory, said, code in cases:
        with pytest.raises(AdapterError) as caught:
            store.add(tmp_path / directory, {**named, **said})
        assert caught.value.code == code
    assert store.manifests() == [kept]
    assert len(store.history()) == 1


def test_an_adapter_for_another_base_is_not_given_out(store: AdapterStore, make_weights: MakeWeights) -> None:
    digest = store.add_weights(make_weights(), {"name": "a", "method": "npo"}).digest

    assert code_of(lambda: store.load(digest, base_digest="0" * 64)) == ErrorCode.ADAPTER_BASE_MISMATCH


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_config.json", "manifest.json"])
def test_one_changed_byte_is_found(store: AdapterStore, make_weights: MakeWeights, file: str) -> None:
    digest = store.add_weights(make_weights(), {"name": "adapter-a", "method": "npo"}).digest
    path = store.path(digest) / file
    content = path.read_bytes()
    position = content.index(b"adapter-a") if file == "manifest.json" else len(content) - 5
    path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])

    assert code_of(lambda: store.load(digest)) == ErrorCode.ADAPTER_BAD_DIGEST


def test_a_broken_manifest_is_left_out_of_the_list(store: AdapterStore, make_weights: MakeWeights) -> None:
    good, bad = (store.add_weights(make_weights(i), {"name": f"a{i}", "method": "npo"}) for i in range(2))
    (store.path(bad.digest) / "manifest.json").write_text("{}")

    assert store.manifests() == [good]
    assert set(store.digests()) == {good.digest, bad.digest}
    assert code_of(lambda: store.manifest(bad.digest)) == ErrorCode.ADAPTER_BAD_DIGEST


def test_removing_needs_that_no_alias_points_there(store: AdapterStore, make_weights: MakeWeights) -> None:
    digest = store.add_weights(make_weights(), {"name": "a", "method": "npo"}).digest
    store.alias("candidate", digest)
    assert code_of(lambda: store.remove(digest)) == ErrorCode.ADAPTER_NOT_PROMOTABLE
    store.alias("candidate", "")

    store.remove(digest)

    assert store.digests() == []
    assert code_of(lambda: store.remove(digest)) == ErrorCode.ADAPTER_UNKNOWN


def test_reading_an_empty_store_creates_nothing(tmp_path: Path) -> None:
    store = AdapterStore(tmp_path / "none")

    assert (store.manifests(), store.aliases(), store.history()) == ([], {}, [])
    assert store.resolve("base") == ""
    assert code_of(lambda: store.load("0" * 64)) == ErrorCode.ADAPTER_UNKNOWN
    assert not store.root.exists()


def test_a_torn_line_of_history_is_dropped_and_cut_off(store: AdapterStore) -> None:
    store.record("one", "")
    path = store.root / "history.jsonl"
    path.write_bytes(path.read_bytes() + b'{"event": "to')
    assert [e["event"] for e in store.history()] == ["one"]

    store.record("two", "", reason="x" * 9000)
    store.record("three", "")

    assert [e["event"] for e in store.history()] == ["one", "two", "three"]


def test_a_damaged_line_of_history_is_named(store: AdapterStore) -> None:
    store.record("one", "")
    path = store.root / "history.jsonl"
    path.write_bytes(b"[1]\n" + path.read_bytes())

    with pytest.raises(AdapterError, match="line 1 of the history") as caught:
        store.history()

    assert caught.value.code == ErrorCode.ADAPTER_BAD_DIGEST


def test_a_prefix_of_two_digests_is_ambiguous(store: AdapterStore, make_weights: MakeWeights) -> None:
    manifest = store.add_weights(make_weights(), {"name": "a", "method": "npo"})
    twins = [manifest.model_copy(update={"digest": "abcdef0123" + letter * 54}) for letter in "45"]

    with pytest.raises(AdapterError, match="2 adapters are meant"):
        resolve("abcdef01", lambda: twins, dict)
    assert resolve("abcdef01235", lambda: twins, dict) == twins[1].digest


def test_damaged_aliases_do_not_hide_adapters(store: AdapterStore, make_weights: MakeWeights) -> None:
    digest = store.add_weights(make_weights(), {"name": "a", "method": "npo"}).digest
    (store.root / "aliases.json").write_text('{"stable": 3}')

    assert code_of(lambda: store.resolve("stable")) == ErrorCode.ADAPTER_BAD_DIGEST
    assert store.resolve(digest) == digest
    assert store.load(digest).digest == digest


def test_concurrent_history_keeps_every_line(store: AdapterStore) -> None:
    def record(worker: int) -> None:
        for index in range(25):
            store.record("event", "", worker=worker, index=index)

    threads = [threading.Thread(target=record, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    found = {(event["worker"], event["index"]) for event in store.history()}
    assert found == {(worker, index) for worker in range(4) for index in range(25)}


def test_manifest_file_is_plain_json_with_its_digest(store: AdapterStore, make_weights: MakeWeights) -> None:
    manifest = store.add_weights(make_weights(), {"name": "a", "method": "npo"})

    content = json.loads((store.path(manifest.digest) / "manifest.json").read_text())

    assert content["digest"] == manifest.digest
    assert content["core"]["method"] == "npo"
    assert content["created"].startswith("2026-01-01T00:00:0")
