"""The bundle: what the writer writes is read, and nothing else is, before any tensor is decoded."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from bundle_parts import (
    CONFIG,
    MANIFEST,
    WEIGHTS,
    archive,
    code_of_refusal,
    entry,
    members_of,
    rehashed,
    state,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlaforget_ros.adapters import AdapterStore, LoraWeights, bundle, peft_format
from vlaforget_ros.adapters.exchange import import_adapter
from vlaforget_ros.errors import AdapterError, ErrorCode

MakeWeights = Callable[..., LoraWeights]
Members = dict[str, bytes]


@pytest.fixture
def members(store: AdapterStore, make_weights: MakeWeights) -> Members:
    return members_of(store, store.add_weights(make_weights(), {"name": "fix", "method": "npo"}).digest)


@pytest.fixture
def robot(tmp_path: Path, make_weights: MakeWeights) -> AdapterStore:
    """A store with one adapter that serves."""
    opened = AdapterStore(tmp_path / "robot")
    opened.alias("candidate", opened.add_weights(make_weights(7), {"name": "kept", "method": "npo"}).digest)
    return opened


def zipped(members: Members) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(WEIGHTS, bytes(50_000_000))
    return out.getvalue()


def edited(members: Members) -> Members:
    said = json.loads(members[MANIFEST])
    said["core"]["gates_passed"] = True
    return {**members, MANIFEST: json.dumps(said).encode()}


def huge_header(members: Members) -> Members:
    weights = (2**40).to_bytes(8, "little") + members[WEIGHTS][8:]
    return rehashed({**members, WEIGHTS: weights})


def listing_others(members: Members) -> Members:
    said = json.loads(members[MANIFEST])
    entry = said["core"]["files"][WEIGHTS]
    return rehashed(members, files={**said["core"]["files"], "../../etc/passwd": entry})


def with_file(members: Members, name: str, content: bytes = b"x") -> bytes:
    return archive([*members.items(), (name, content)])


def sparse(members: Members) -> bytes:
    """A GNU sparse file: 512 bytes that stand for terabytes, the bomb of tar."""
    return archive([(entry(MANIFEST, tarfile.GNUTYPE_SPARSE, size=512), bytes(512))], tarfile.GNU_FORMAT)


def said_size(members: Members, name: str, size: int) -> bytes:
    form = tarfile.GNU_FORMAT if size < 0 or size >= 8**11 else tarfile.USTAR_FORMAT
    return archive([(entry(name, size=size), members[name])], form)


# Row of the threat table -> how the bundle is made, and the code of its refusal.
MALICIOUS: dict[str, tuple[Callable[[Members], bytes], int]] = {
    "zip bomb": (zipped, 111),
    "gzip bomb": (lambda m: gzip.compress(archive(m.items())), 111),
    "sparse file": (sparse, 111),
    "pickle as bundle": (lambda m: pickle.dumps({"a": 1}), 111),
    "pickle as member": (lambda m: with_file(m, "adapter_model.bin", pickle.dumps(1)), 111),
    "pickle as weights": (lambda m: archive(rehashed({**m, WEIGHTS: pickle.dumps([1])}).items()), 104),
    "too many members": (lambda m: archive([*m.items(), *((f"{i}.json", b"{}") for i in range(5000))]), 111),
    "unknown member": (lambda m: with_file(m, "README.md"), 111),
    "path traversal": (lambda m: with_file(m, "../../etc/cron.d/x"), 111),
    "path traversal to a known name": (lambda m: with_file(m, f"../{CONFIG}"), 111),
    "absolute name": (lambda m: with_file(m, f"/tmp/{CONFIG}"), 111),
    "folder before a known name": (lambda m: with_file(m, f"./{CONFIG}"), 111),
    "symbolic link": (
        lambda m: archive([(entry(MANIFEST, tarfile.SYMTYPE, linkname="/etc/passwd"), b"")]),
        111,
    ),
    "hard link": (
        lambda m: archive([*m.items(), (entry(CONFIG, tarfile.LNKTYPE, linkname=MANIFEST), b"")]),
        111,
    ),
    "device": (lambda m: archive([(entry(MANIFEST, tarfile.CHRTYPE), b"")]), 111),
    "folder": (lambda m: archive([(entry("adapters", tarfile.DIRTYPE), b"")]), 111),
    "extended header": (lambda m: archive([(entry("x", tarfile.XHDTYPE, size=2**33 - 1), b"")]), 111),
    "long name": (lambda m: archive([(entry("x", tarfile.GNUTYPE_LONGNAME, size=2**33 - 1), b"")]), 111),
    "duplicate name": (lambda m: with_file(m, WEIGHTS, b"other"), 111),
    "wrong order": (lambda m: archive(reversed(m.items())), 111),
    "missing manifest": (lambda m: archive([(CONFIG, m[CONFIG]), (WEIGHTS, m[WEIGHTS])]), 111),
    "missing weights": (lambda m: archive([(MANIFEST, m[MANIFEST]), (CONFIG, m[CONFIG])]), 111),
    "oversized manifest": (lambda m: said_size(m, MANIFEST, 8 * 2**20 + 1), 111),
    "oversized weights": (lambda m: said_size(m, WEIGHTS, 2**40), 111),
    "negative size": (lambda m: said_size(m, MANIFEST, -512), 111),
    "size beyond the end": (lambda m: said_size(m, MANIFEST, 4096), 111),
    "nothing": (lambda m: b"", 111),
    "cut off": (lambda m: archive(m.items())[:-1500], 111),
    "no end mark": (lambda m: archive(m.items(), end=False), 111),
    "a second file behind the end": (lambda m: archive(m.items()) + archive(m.items()), 111),
    "data behind the end": (lambda m: archive(m.items()) + b"MZ", 111),
    "long padding": (lambda m: archive(m.items()) + bytes(10**6), 111),
    "damaged header": (lambda m: b"\x00" + archive(m.items())[1:], 111),
    "edited manifest": (lambda m: archive(edited(m).items()), 103),
    "other weights": (lambda m: archive({**m, WEIGHTS: m[WEIGHTS][:-1] + b"\x00"}.items()), 103),
    "files the manifest does not list": (lambda m: archive(listing_others(m).items()), 111),
    "manifest that is none": (lambda m: archive({**m, MANIFEST: b"[]"}.items()), 103),
    "oversized safetensors header": (lambda m: archive(huge_header(m).items()), 104),
    "swapped base digest": (lambda m: archive(rehashed(m, base_digest="b" * 64).items()), 101),
}
# These reach the tensors: what they claim can only be told from them.
CLAIMS: dict[str, tuple[Callable[[Members], bytes], int]] = {
    "claimed rank": (lambda m: archive(rehashed(m, rank=2).items()), 103),
    "claimed layers": (lambda m: archive(rehashed(m, modules=["language_model.x"]).items()), 103),
}


@pytest.mark.parametrize("threat", MALICIOUS)
def test_a_malicious_bundle_is_refused_before_a_tensor_is_decoded(
    threat: str, tmp_path: Path, members: Members, robot: AdapterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, code = MALICIOUS[threat]
    path = tmp_path / "evil.tar"
    path.write_bytes(make(members))
    before = state(robot.root)
    decoded: list[int] = []
    monkeypatch.setattr(peft_format, "load_tensors", decoded.append)

    with pytest.raises(AdapterError) as caught:
        import_adapter(robot, str(path))

    assert caught.value.code == code, caught.value
    assert caught.value.remedy
    assert decoded == []
    assert state(robot.root) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.tar", "robot", "store"]


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_manifest_that_does_not_describe_its_files_is_refused(
    claim: str, tmp_path: Path, members: Members, robot: AdapterStore
) -> None:
    make, code = CLAIMS[claim]
    (tmp_path / "evil.tar").write_bytes(make(members))
    before = state(robot.root)

    assert code_of_refusal(lambda: import_adapter(robot, str(tmp_path / "evil.tar"))) == code
    assert state(robot.root) == before


def test_the_same_adapter_gives_the_same_bytes_and_tar_reads_them(members: Members) -> None:
    content = b"".join(bundle.chunks(members))

    assert content == b"".join(bundle.chunks(dict(reversed(members.items()))))
    assert len(content) % 10240 == 0
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as file:
        assert file.getnames() == [MANIFEST, CONFIG, WEIGHTS]


def test_what_was_written_is_read_back_with_the_signature(tmp_path: Path, members: Members) -> None:
    signed = {**members, "signature.json": b'{"any": "bytes"}\x00'}
    (tmp_path / "a.tar").write_bytes(b"".join(bundle.chunks(signed)))

    assert bundle.read(tmp_path / "a.tar") == signed
    assert list(bundle.read(tmp_path / "a.tar")) == [MANIFEST, "signature.json", CONFIG, WEIGHTS]


def test_a_bundle_that_tar_made_is_read(tmp_path: Path, members: Members) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.USTAR_FORMAT) as file:
        for name, content in members.items():
            (tmp_path / name).write_bytes(content)
            file.add(tmp_path / name, arcname=name)

    assert bundle.read(tmp_path / "a.tar") == members


def test_a_pipe_a_device_and_a_folder_are_no_bundles(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        assert code_of_refusal(lambda path=path: bundle.read(path)) == ErrorCode.ADAPTER_BAD_BUNDLE
    assert code_of_refusal(lambda: bundle.read(tmp_path / "none.tar")) == ErrorCode.ADAPTER_UNKNOWN


def test_a_sparse_file_of_terabytes_is_refused_by_its_size(tmp_path: Path) -> None:
    with (tmp_path / "big.tar").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(AdapterError, match="size of the bundle"):
        bundle.read(tmp_path / "big.tar")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_bundle_is_refused_with_a_code_or_whole(
    data: st.DataObject, tmp_path: Path, members: Members
) -> None:
    """Whatever bytes change: a coded error, or the same members (padding and fields that nobody reads)."""
    content = bytearray(b"".join(bundle.chunks(members)))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, 2000))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    path = tmp_path / "damaged.tar"
    path.write_bytes(content)

    code = code_of_refusal(lambda: bundle.read(path))

    assert code in (0, 111)
    if code == 0:
        assert set(bundle.read(path)) == set(members)
