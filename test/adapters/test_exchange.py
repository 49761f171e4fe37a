"""Adapters from store to store: the same digest, evidence and signature arrive, once, through any file system."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import fsspec
import pytest
from bundle_parts import code_of_refusal, members_of, state
from flaky_files import FlakyFileSystem

from vlaforget_ros.adapters import AdapterStore, LoraWeights, partials
from vlaforget_ros.adapters.exchange import export_adapter, import_adapter
from vlaforget_ros.adapters.partials import held
from vlaforget_ros.errors import AdapterError, ErrorCode

MakeWeights = Callable[..., LoraWeights]
FAILED = {"name": "qrr_4bit_max", "verdict": "failed", "value": 0.4, "limit": 0.2}


@pytest.fixture
def digest(store: AdapterStore, make_weights: MakeWeights) -> str:
    weights = make_weights(rank=16)
    return store.add_weights(weights, {"name": "fix", "method": "npo", "gates_passed": True}).digest


@pytest.fixture
def robot(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path / "robot", rank_limit=32)


@pytest.fixture
def flaky() -> Iterator[type[FlakyFileSystem]]:
    fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)
    FlakyFileSystem.mend()
    FlakyFileSystem.store.clear()
    yield FlakyFileSystem
    FlakyFileSystem.mend()


@pytest.mark.parametrize(
    "place", ["{tmp}/out/fix.tar", "file://{tmp}/out/fix.tar", "memory://robots/fix.tar"]
)
def test_an_adapter_arrives_with_its_digest_evidence_and_signature(
    place: str, tmp_path: Path, store: AdapterStore, digest: str, robot: AdapterStore
) -> None:
    store.attach(digest, "attacks", {"gates": [FAILED]})
    (store.path(digest) / "signature.json").write_bytes(b'{"signed": true}')
    url = place.format(tmp=tmp_path)

    sent = export_adapter(store, digest, url)
    taken = import_adapter(robot, url)

    assert (sent.signed, taken.signed, taken.new, taken.evidence_kept) == (True, True, True, ())
    assert taken.manifest == store.manifest(digest)
    assert robot.load(digest).digest == digest
    assert (robot.path(digest) / "signature.json").read_bytes() == b'{"signed": true}'
    assert members_of(robot, digest) == members_of(store, digest)
    assert code_of_refusal(lambda: robot.alias("stable", digest)) == ErrorCode.ADAPTER_NOT_PROMOTABLE
    assert robot.aliases() == {}
    (event,) = robot.history()
    assert (event["event"], event["digest"], event["source"]) == ("imported", digest, url)


def test_the_bytes_of_the_manifest_travel_as_they_are(
    tmp_path: Path, store: AdapterStore, digest: str, robot: AdapterStore
) -> None:
    """Written by another version, without a field that this one writes: a signature may cover them."""
    file = store.path(digest) / "manifest.json"
    said = json.loads(file.read_text())
    del said["evidence"]
    file.write_text(json.dumps(said))
    export_adapter(store, digest, str(tmp_path / "fix.tar"))

    import_adapter(robot, str(tmp_path / "fix.tar"))

    assert (robot.path(digest) / "manifest.json").read_bytes() == file.read_bytes()


def test_importing_twice_changes_nothing(
    tmp_path: Path, store: AdapterStore, digest: str, robot: AdapterStore
) -> None:
    export_adapter(store, digest, str(tmp_path / "fix.tar"))
    import_adapter(robot, str(tmp_path / "fix.tar"))
    before = state(robot.root)

    again = import_adapter(robot, str(tmp_path / "fix.tar"))

    assert again.new is False
    assert state(robot.root) == before


def test_importing_where_it_was_exported_changes_nothing(
    tmp_path: Path, store: AdapterStore, digest: str
) -> None:
    export_adapter(store, digest, str(tmp_path / "fix.tar"))
    before = state(store.root)

    assert import_adapter(store, str(tmp_path / "fix.tar")).new is False
    assert state(store.root) == before


def test_evidence_that_came_later_arrives_and_what_was_measured_here_stays(
    tmp_path: Path, store: AdapterStore, digest: str, robot: AdapterStore
) -> None:
    bundle = str(tmp_path / "fix.tar")
    export_adapter(store, digest, bundle)
    import_adapter(robot, bundle)
    robot.attach(digest, "canary", {"here": True})
    store.attach(digest, "canary", {"here": False})
    store.attach(digest, "attacks", {"gates": [FAILED]})
    (store.path(digest) / "signature.json").write_bytes(b"first")
    export_adapter(store, digest, bundle)

    again = import_adapter(robot, bundle)

    assert again.manifest.evidence == {"attacks": {"gates": [FAILED]}, "canary": {"here": True}}
    assert again.evidence_kept == ("canary",)
    assert (robot.path(digest) / "signature.json").read_bytes() == b"first"
    (store.path(digest) / "signature.json").write_bytes(b"second")
    export_adapter(store, digest, bundle)
    import_adapter(robot, bundle)
    assert (robot.path(digest) / "signature.json").read_bytes() == b"first"


def test_an_edit_of_an_edit_serves_without_its_parent(
    tmp_path: Path, store: AdapterStore, digest: str, robot: AdapterStore, make_weights: MakeWeights
) -> None:
    child = store.add_weights(make_weights(3), {"name": "next", "method": "npo", "parent_digest": digest})
    export_adapter(store, child.digest, str(tmp_path / "next.tar"))

    assert import_adapter(robot, str(tmp_path / "next.tar")).missing_parent == digest
    assert robot.load(child.digest).digest == child.digest


def test_the_same_name_with_new_weights_never_silently_replaces_the_old_ones(
    tmp_path: Path, store: AdapterStore, digest: str, robot: AdapterStore, make_weights: MakeWeights
) -> None:
    mine = robot.add_weights(make_weights(9), {"name": "fix", "method": "npo"}).digest
    robot.alias("candidate", mine)
    export_adapter(store, digest, str(tmp_path / "fix.tar"))

    assert import_adapter(robot, str(tmp_path / "fix.tar")).new

    assert robot.resolve("candidate") == mine
    assert code_of_refusal(lambda: robot.resolve("fix")) == ErrorCode.ADAPTER_UNKNOWN


def test_a_rank_over_the_robots_limit_is_refused(tmp_path: Path, store: AdapterStore, digest: str) -> None:
    export_adapter(store, digest, str(tmp_path / "fix.tar"))
    small = AdapterStore(tmp_path / "small", rank_limit=8)

    refused = code_of_refusal(lambda: import_adapter(small, str(tmp_path / "fix.tar")))

    assert refused == ErrorCode.ADAPTER_OVER_RANK_LIMIT
    assert not small.root.exists()


def test_a_damaged_adapter_is_not_exported(tmp_path: Path, store: AdapterStore, digest: str) -> None:
    file = store.path(digest) / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")

    refused = code_of_refusal(lambda: export_adapter(store, digest, str(tmp_path / "out" / "fix.tar")))

    assert refused == ErrorCode.ADAPTER_BAD_DIGEST
    assert not (tmp_path / "out").exists()


def test_a_folder_is_a_destination_and_the_store_is_only_read(
    tmp_path: Path, store: AdapterStore, digest: str
) -> None:
    before = state(store.root)
    (tmp_path / "out").mkdir()

    sent = export_adapter(store, digest, str(tmp_path / "out"))

    assert sent.destination == f"{tmp_path}/out/fix-{digest[:12]}.tar"
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"fix-{digest[:12]}.tar"]
    assert Path(sent.destination).stat().st_size == sent.bytes
    assert state(store.root) == before


def test_a_download_goes_on_where_the_line_broke(
    store: AdapterStore, digest: str, robot: AdapterStore, flaky: type[FlakyFileSystem]
) -> None:
    size = export_adapter(store, digest, "flaky://fix.tar").bytes
    flaky.mend(breaks_after=5000)

    assert code_of_refusal(lambda: import_adapter(robot, "flaky://fix.tar")) == ErrorCode.ADAPTER_DISK
    assert robot.digests() == []
    (partial,) = (robot.root / "transfers").iterdir()
    assert partial.stat().st_size == 5000
    flaky.mend()
    seen: list[tuple[int, int]] = []
    taken = import_adapter(robot, "flaky://fix.tar", lambda done, total: seen.append((done, total)))

    assert taken.manifest.digest == digest
    assert flaky.seeks == [5000]
    assert flaky.passed == size - 5000
    assert (seen[0], seen[-1]) == ((6000, size), (size, size))
    assert list((robot.root / "transfers").iterdir()) == []


def test_a_source_that_cannot_be_read_from_the_middle_is_read_from_its_beginning(
    store: AdapterStore, digest: str, robot: AdapterStore, flaky: type[FlakyFileSystem]
) -> None:
    size = export_adapter(store, digest, "flaky://fix.tar").bytes
    flaky.mend(breaks_after=5000, ranges=False)
    assert code_of_refusal(lambda: import_adapter(robot, "flaky://fix.tar")) == ErrorCode.ADAPTER_DISK
    flaky.mend(ranges=False)

    assert import_adapter(robot, "flaky://fix.tar").new
    assert flaky.passed == size


@pytest.mark.parametrize("wrong", ["zeros", "too long", "whole but other"])
def test_a_wrong_partial_is_thrown_away_and_the_download_begins_anew(
    wrong: str, store: AdapterStore, digest: str, robot: AdapterStore, flaky: type[FlakyFileSystem]
) -> None:
    size = export_adapter(store, digest, "flaky://fix.tar").bytes
    flaky.mend(breaks_after=5000)
    assert code_of_refusal(lambda: import_adapter(robot, "flaky://fix.tar")) == ErrorCode.ADAPTER_DISK
    (partial,) = (robot.root / "transfers").iterdir()
    # After a power cut a file may have its length and none of its content.
    partial.write_bytes(bytes({"zeros": 5000, "too long": size + 1, "whole but other": size}[wrong]))
    flaky.mend()

    assert import_adapter(robot, "flaky://fix.tar").manifest.digest == digest
    assert robot.load(digest).digest == digest
    assert list((robot.root / "transfers").iterdir()) == []


def test_a_source_that_changed_meanwhile_begins_anew(
    store: AdapterStore,
    digest: str,
    robot: AdapterStore,
    flaky: type[FlakyFileSystem],
    make_weights: MakeWeights,
) -> None:
    export_adapter(store, digest, "flaky://latest.tar")
    flaky.mend(breaks_after=5000)
    assert code_of_refusal(lambda: import_adapter(robot, "flaky://latest.tar")) == ErrorCode.ADAPTER_DISK
    flaky.mend()
    other = store.add_weights(make_weights(5, rank=16), {"name": "fix", "method": "npo"}).digest
    export_adapter(store, other, "flaky://latest.tar")

    assert import_adapter(robot, "flaky://latest.tar").manifest.digest == other
    assert flaky.seeks == []


def test_a_malicious_download_is_thrown_away(robot: AdapterStore, flaky: type[FlakyFileSystem]) -> None:
    for content, code in ((b"PK\x03\x04" * 1000, 111), (b"", 111)):
        flaky().pipe_file("/evil.tar", content)
        assert code_of_refusal(lambda: import_adapter(robot, "flaky://evil.tar")) == code
        assert state(robot.root) == {}


def test_an_upload_that_fails_leaves_what_was_there_before(
    store: AdapterStore, digest: str, flaky: type[FlakyFileSystem]
) -> None:
    flaky().pipe_file("/robots/fix.tar", b"before")
    flaky.mend(breaks_after=5000)

    refused = code_of_refusal(lambda: export_adapter(store, digest, "flaky://robots/fix.tar"))

    assert refused == ErrorCode.ADAPTER_DISK
    assert flaky().ls("/robots", detail=False) == ["/robots/fix.tar"]
    assert flaky().cat_file("/robots/fix.tar") == b"before"


def test_two_imports_of_one_source_take_turns(
    store: AdapterStore, digest: str, robot: AdapterStore, flaky: type[FlakyFileSystem]
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    export_adapter(store, digest, "flaky://fix.tar")
    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(lambda _: import_adapter(robot, "flaky://fix.tar"), range(8)))

    assert {one.manifest.digest for one in taken} == {digest}
    assert [event["event"] for event in robot.history()] == ["imported"]
    assert list((robot.root / "transfers").iterdir()) == []


def test_a_download_that_fills_the_disk_gives_the_room_back(
    store: AdapterStore, digest: str, robot: AdapterStore, flaky: type[FlakyFileSystem]
) -> None:
    export_adapter(store, digest, "flaky://fix.tar")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5500, hard))
    try:
        with pytest.raises(AdapterError, match="free space") as caught:
            import_adapter(robot, "flaky://fix.tar")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert caught.value.code == ErrorCode.ADAPTER_DISK
    assert state(robot.root) == {}
    assert import_adapter(robot, "flaky://fix.tar").new


def test_a_download_under_way_is_not_dropped(tmp_path: Path) -> None:
    with held(tmp_path, "key") as partial:
        partial.append(b"half")
        assert [partials.drop(path) for path in partials.leftovers(tmp_path)] == [False]
    assert partials.leftovers(tmp_path) == []


def test_places_that_cannot_be_reached_have_codes_and_remedies(
    tmp_path: Path, store: AdapterStore, digest: str, robot: AdapterStore
) -> None:
    for source, code in (
        (str(tmp_path / "none.tar"), 100),
        ("memory://none.tar", 100),
        ("nosuch://x/fix.tar", 107),
        (str(tmp_path), 111),
    ):
        assert code_of_refusal(lambda source=source: import_adapter(robot, source)) == code
    assert code_of_refusal(lambda: export_adapter(store, digest, "/proc/none/fix.tar")) == 107
    assert not robot.root.exists()


def test_a_missing_driver_is_named(store: AdapterStore, digest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = import_module("fsspec.registry")
    monkeypatch.setitem(registry.known_implementations, "s3", {"class": "no_such_driver.S3", "err": "x"})
    monkeypatch.setattr(registry, "_registry", {})

    with pytest.raises(AdapterError, match="no driver for s3://") as caught:
        export_adapter(store, digest, "s3://bucket/fix.tar")

    assert caught.value.code == ErrorCode.ADAPTER_DISK
    assert caught.value.remedy == "pip install s3fs"


def test_secrets_of_a_url_stay_out_of_history_and_results(
    store: AdapterStore, digest: str, robot: AdapterStore, flaky: type[FlakyFileSystem]
) -> None:
    sent = export_adapter(store, digest, "flaky://user:secret@host/fix.tar?sig=secret")
    taken = import_adapter(robot, "flaky://user:secret@host/fix.tar?sig=secret")

    assert (sent.destination, taken.source) == ("flaky://host/fix.tar",) * 2
    assert "secret" not in (robot.root / "history.jsonl").read_text()
