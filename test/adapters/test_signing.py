"""Signatures with real keys and the real library: what holds, and each way in which one does not."""

from __future__ import annotations

import base64
import json
import os
import socket
import stat
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from signed_parts import START, Signers, edit, signature_file, snapshot

from vlaforget_ros.adapters import AdapterStore, LoraWeights, keys, signing
from vlaforget_ros.adapters.manifest import core_bytes, core_digest
from vlaforget_ros.adapters.signatures import MAX_SIGNATURES, Terms, to_json
from vlaforget_ros.errors import AdapterError, ErrorCode

MakeWeights = Callable[..., LoraWeights]
BAD = ErrorCode.ADAPTER_BAD_SIGNATURE


def add(store: AdapterStore, make_weights: MakeWeights, name: str = "a", seed: int = 0) -> str:
    return store.add_weights(make_weights(seed), {"name": name, "method": "npo", "gates_passed": True}).digest


def refused(call: Callable[[], Any]) -> AdapterError:
    with pytest.raises(AdapterError) as caught:
        call()
    return caught.value


def refused_before_decoding(store: AdapterStore, digest: str) -> AdapterError:
    """The error of a load while the weights are no weights at all: had they been opened, that came first."""
    weights = store.path(digest) / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(b"\xff" * 64)
    before = snapshot(store.root)
    error = refused(lambda: store.load(digest))
    assert snapshot(store.root) == before
    weights.write_bytes(whole)
    return error


def test_a_signed_adapter_is_loaded_and_says_who_signed(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers
) -> None:
    digest = add(store, make_weights)
    signers.sign(store, digest, "safety", "trainer", expires=timedelta(days=1))

    trusted = signers.store(store, "safety", "trainer")

    assert trusted.load(digest).digest == digest
    assert trusted.signer(digest) == "safety, trainer"
    assert store.signer(digest) == (
        f"unverified {signers.fingerprint('safety')[:12]}, unverified {signers.fingerprint('trainer')[:12]}"
    )
    event = store.history()[-1]
    assert (event["event"], event["fingerprint"]) == ("signed", signers.fingerprint("trainer"))


def test_the_signed_file_is_what_the_digest_is_computed_from(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers
) -> None:
    digest = add(store, make_weights)
    signed = signers.sign(store, digest, "safety")

    payload = json.loads(base64.b64decode(signed.bundle["dsseEnvelope"]["payload"]))
    resources = {entry["name"]: entry["digest"] for entry in payload["predicate"]["resources"]}

    assert resources["core.json"] == digest == core_digest(store.manifest(digest).core)


def test_evidence_attached_after_signing_leaves_the_signature_whole(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers
) -> None:
    digest = add(store, make_weights)
    signers.sign(store, digest, "safety")
    trusted = signers.store(store, "safety")

    trusted.attach(digest, "attacks", {"figures": [1, 2]})

    assert trusted.load(digest).digest == digest
    assert trusted.signer(digest) == "safety"


def test_signing_and_verifying_need_neither_network_nor_disk(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = add(store, make_weights)
    signers.key("safety")

    def no_network(*_: object, **__: object) -> None:
        raise OSError("no network here")

    monkeypatch.setattr(socket, "socket", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    signers.sign(store, digest, "safety")
    monkeypatch.setattr(tempfile, "tempdir", "/proc")  # nothing can be written there

    assert signers.store(store, "safety").load(digest).digest == digest


def test_signing_again_replaces_the_signature_of_the_same_key(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers
) -> None:
    digest = add(store, make_weights)
    signers.sign(store, digest, "safety", "trainer")
    signers.now += timedelta(days=1)
    signers.sign(store, digest, "safety")

    assert [signed.terms.signed for signed in store.signatures(digest)] == [START, signers.now]


def _other_bit(text: str) -> str:
    raw = bytearray(base64.b64decode(text))
    raw[-1] ^= 1
    return base64.b64encode(bytes(raw)).decode()


def _flip(content: Any) -> None:
    envelope = content["signatures"][0]["bundle"]["dsseEnvelope"]
    envelope["signatures"][0]["sig"] = _other_bit(envelope["signatures"][0]["sig"])


def _later(content: Any) -> None:
    content["signatures"][0]["terms"]["expires"] = "2099-01-01T00:00:00Z"


def _no_hint(content: Any) -> None:
    content["signatures"][0]["bundle"]["verificationMaterial"]["publicKey"] = {}


def _no_signature(content: Any) -> None:
    content["signatures"][0]["bundle"]["dsseEnvelope"]["signatures"] = []


def _empty(content: Any) -> None:
    content["signatures"][0]["bundle"] = {}


def _null_material(content: Any) -> None:
    content["signatures"][0]["bundle"]["verificationMaterial"] = None


def _ignoring(content: Any) -> None:
    """What the library would accept of a signer: a payload that says which files not to look at."""
    envelope = content["signatures"][0]["bundle"]["dsseEnvelope"]
    payload = json.loads(base64.b64decode(envelope["payload"]))
    payload["predicate"]["serialization"]["ignore_paths"] = ["core.json"]
    envelope["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()


def _old_format(content: Any) -> None:
    envelope = content["signatures"][0]["bundle"]["dsseEnvelope"]
    payload = json.loads(base64.b64decode(envelope["payload"]))
    payload["predicateType"] = "https://model_signing/Digests/v0.1"
    envelope["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()


def _other_payload(content: Any) -> None:
    """The right files listed, by somebody without the key."""
    envelope = content["signatures"][0]["bundle"]["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"])
    envelope["payload"] = base64.b64encode(payload + b" ").decode()


def _more(content: Any) -> None:
    content["signatures"] *= MAX_SIGNATURES + 1


@pytest.mark.parametrize(
    "change",
    [
        *(_flip, _later, _no_hint, _no_signature, _empty, _null_material),
        *(_ignoring, _old_format, _other_payload, _more),
    ],
)
def test_a_bad_signature_is_refused_before_the_weights_are_opened(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers, change: Callable[[Any], None]
) -> None:
    digest = add(store, make_weights)
    signers.sign(store, digest, "safety", expires=timedelta(days=1))
    edit(signature_file(store, digest), change)
    trusted = signers.store(store, "safety", serve="any")

    assert refused_before_decoding(trusted, digest).code == BAD
    assert refused(lambda: trusted.alias("candidate", digest)).code == BAD
    assert trusted.aliases() == {}
    assert trusted.signer(digest) == "error 102"


@pytest.mark.parametrize(
    "content",
    [
        b"not JSON",
        b"",
        b"[]",
        b'{"format": 2, "signatures": []}',
        b'{"signatures": [{"terms": {"signed": 5}, "bundle": {}}]}',
        b"[" * 100_000,
        b" " * (1024 * 1024 + 1),
    ],
    ids=["text", "empty", "list", "format", "terms", "deep", "oversized"],
)
def test_a_signature_file_that_is_none_is_refused(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers, content: bytes
) -> None:
    digest = add(store, make_weights)
    signature_file(store, digest).write_bytes(content)

    error = refused_before_decoding(signers.store(store, "safety", serve="any"), digest)

    assert error.code == BAD
    assert store.load(digest).digest == digest, "nobody asked about signatures"


def test_a_signature_file_that_is_a_link_is_refused(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers, tmp_path: Path
) -> None:
    digest = add(store, make_weights)
    signature_file(store, digest).symlink_to(tmp_path / "nowhere")

    assert refused_before_decoding(signers.store(store, "safety"), digest).code == BAD


def test_a_signature_copied_from_another_adapter_is_refused(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers
) -> None:
    good, bad = add(store, make_weights, "a"), add(store, make_weights, "b", seed=1)
    signers.sign(store, good, "safety")
    signature_file(store, bad).write_bytes(signature_file(store, good).read_bytes())

    error = refused_before_decoding(signers.store(store, "safety"), bad)

    assert error.code == BAD
    assert good[:12] in str(error)


@pytest.mark.parametrize("field", ["base_digest", "method", "gates_passed", "metrics"])
def test_an_edited_manifest_under_the_digest_that_it_now_has_is_refused(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers, field: str
) -> None:
    """Whoever edits it can also compute the new digest and rename the folder; the signature stays behind."""
    digest = add(store, make_weights)
    signers.sign(store, digest, "safety")
    value = {"base_digest": "e" * 64, "method": "ga", "gates_passed": False, "metrics": {"fc": 99.0}}[field]
    manifest = store.manifest(digest)
    core = manifest.core.model_copy(update={field: value})
    forged = manifest.model_copy(update={"digest": core_digest(core), "core": core})
    store.path(digest).rename(store.root / "adapters" / forged.digest)
    (store.path(forged.digest) / "manifest.json").write_bytes(forged.to_json())
    assert store.manifest(forged.digest) == forged

    assert refused_before_decoding(signers.store(store, "safety"), forged.digest).code == BAD


def test_a_manifest_edited_in_place_is_refused_by_its_digest(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers
) -> None:
    digest = add(store, make_weights)
    signers.sign(store, digest, "safety")

    def swap_base(content: Any) -> None:
        content["core"]["base_digest"] = "e" * 64

    edit(store.path(digest) / "manifest.json", swap_base)

    error = refused_before_decoding(signers.store(store, "safety"), digest)
    assert error.code == ErrorCode.ADAPTER_BAD_DIGEST


def test_changed_weights_under_a_good_signature_are_refused(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers
) -> None:
    digest = add(store, make_weights)
    signers.sign(store, digest, "safety")
    weights = store.path(digest) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")

    error = refused(lambda: signers.store(store, "safety").load(digest))
    assert error.code == ErrorCode.ADAPTER_BAD_DIGEST


def test_there_is_a_limit_to_signatures(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers
) -> None:
    digest = add(store, make_weights)
    signed = signers.sign(store, digest, "safety")

    assert refused(lambda: to_json([signed] * (MAX_SIGNATURES + 1))).code == BAD
    assert len(store.signatures(digest)) == 1


def test_a_new_key_is_private_and_never_overwritten(tmp_path: Path) -> None:
    fingerprint = keys.new_key(tmp_path / "k")
    private, public = tmp_path / "k" / "signing.key", tmp_path / "k" / "signing.pub"

    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert keys.fingerprint(public.read_bytes(), public) == fingerprint
    before = private.read_bytes()
    error = refused(lambda: keys.new_key(tmp_path / "k"))
    assert error.code == ErrorCode.ADAPTER_UNTRUSTED
    assert private.read_bytes() == before


def test_a_private_key_never_lands_in_the_store(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers
) -> None:
    digest = add(store, make_weights)
    before = snapshot(store.root)
    for place in (store.root, store.root / "keys", store.path(digest)):
        error = refused(lambda place=place: keys.new_key(place))  # type: ignore[misc]
        assert error.code == ErrorCode.ADAPTER_UNTRUSTED
        assert str(store.root) in error.remedy
    assert snapshot(store.root) == before

    signers.sign(store, digest, "safety")

    secret = signers.key("safety").read_bytes()
    for content in snapshot(store.root).values():
        assert b"PRIVATE KEY" not in content
        assert secret.split(b"\n")[1] not in content


def _shared(path: Path) -> None:
    path.chmod(0o644)


def _moved_into_the_store(path: Path) -> None:
    store = path.parents[2] / "store"
    path.rename(store / "signing.key")
    path.symlink_to(store / "signing.key")


def _public_only(path: Path) -> None:
    path.write_bytes((path.parent / "signing.pub").read_bytes())


def _removed(path: Path) -> None:
    path.unlink()


def _other_curve(path: Path) -> None:
    _write_key(path, "secp256k1")


def _encrypted(path: Path) -> None:
    _write_key(path, "secp256r1", b"secret")


def _write_key(path: Path, curve: str, password: bytes = b"") -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    kind = {"secp256k1": ec.SECP256K1(), "secp256r1": ec.SECP256R1()}[curve]
    sealed = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    path.write_bytes(ec.generate_private_key(kind).private_bytes(serialization.Encoding.PEM, form, sealed))


@pytest.mark.parametrize(
    "spoil", [_shared, _moved_into_the_store, _public_only, _removed, _other_curve, _encrypted]
)
def test_a_private_key_that_cannot_be_used_is_refused_and_signs_nothing(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers, spoil: Callable[[Path], None]
) -> None:
    digest = add(store, make_weights)
    spoil(signers.key("safety"))

    core = core_bytes(store.manifest(digest).core)
    error = refused(lambda: signing.sign(core, Terms(signed=START), signers.key("safety")))

    assert error.code == ErrorCode.ADAPTER_UNTRUSTED
    assert error.remedy
    assert not signature_file(store, digest).exists()


def test_a_full_disk_keeps_the_signatures_that_were_there(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = add(store, make_weights)
    signers.sign(store, digest, "safety")
    signed = signers.sign(store, add(store, make_weights, "b"), "trainer")
    before = signature_file(store, digest).read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    error = refused(lambda: store.add_signature(digest, signed))
    assert error.code == ErrorCode.ADAPTER_DISK
    assert signature_file(store, digest).read_bytes() == before
