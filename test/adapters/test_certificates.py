"""Signers that are named by a certificate below a root instead of by a key."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from signed_parts import START, Office, Signers, edit, signature_file

from vlaforget_ros.adapters import AdapterStore, LoraWeights, signing
from vlaforget_ros.adapters.manifest import core_bytes
from vlaforget_ros.adapters.signatures import Terms
from vlaforget_ros.errors import AdapterError, ErrorCode

MakeWeights = Callable[..., LoraWeights]
WEEK = timedelta(days=7)


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


@pytest.fixture
def digest(store: AdapterStore, make_weights: MakeWeights) -> str:
    return store.add_weights(make_weights(), {"name": "a", "method": "npo", "gates_passed": True}).digest


def sign(store: AdapterStore, digest: str, office: Office, name: str, valid: timedelta = WEEK) -> None:
    key, certificate = office.certify(name, valid)
    core = core_bytes(store.manifest(digest).core)
    store.add_signature(digest, signing.sign(core, Terms(signed=START), key, certificate=certificate))


def trusting(store: AdapterStore, signers: Signers, office: Office, **more: Any) -> AdapterStore:
    known = {"safety": {"certificate_roots": [str(office.root)], "common_name": "safety-office"}}
    return signers.store(store, **{"signers": known, **more})


def code_of(call: Callable[[], Any]) -> ErrorCode:
    with pytest.raises(AdapterError) as caught:
        call()
    return caught.value.code


def test_a_certificate_below_the_root_stands_for_its_common_name(
    store: AdapterStore, digest: str, office: Office, signers: Signers
) -> None:
    sign(store, digest, office, "safety-office")
    trusted = trusting(store, signers, office)

    assert trusted.load(digest).digest == digest
    assert trusted.signer(digest) == "safety"


def test_somebody_else_below_the_same_root_is_not_the_signer(
    store: AdapterStore, digest: str, office: Office, signers: Signers
) -> None:
    sign(store, digest, office, "canteen")

    assert code_of(lambda: trusting(store, signers, office).load(digest)) == ErrorCode.ADAPTER_UNTRUSTED


def test_the_same_name_below_another_root_is_a_bad_signature(
    store: AdapterStore, digest: str, office: Office, signers: Signers, tmp_path: Path
) -> None:
    sign(store, digest, Office(tmp_path, "forged"), "safety-office")

    assert code_of(lambda: trusting(store, signers, office).load(digest)) == ErrorCode.ADAPTER_BAD_SIGNATURE


def test_a_certificate_that_has_expired_no_longer_counts(
    store: AdapterStore, digest: str, office: Office, signers: Signers
) -> None:
    """The library asks only whether it was valid on its own first day."""
    sign(store, digest, office, "safety-office")
    trusted = trusting(store, signers, office)
    signers.now = START + WEEK - timedelta(seconds=1)
    assert trusted.load(digest).digest == digest

    signers.now = START + WEEK

    assert code_of(lambda: trusted.load(digest)) == ErrorCode.ADAPTER_EXPIRED


def test_the_key_of_a_certificate_can_be_revoked(
    store: AdapterStore, digest: str, office: Office, signers: Signers
) -> None:
    sign(store, digest, office, "safety-office")
    found = signing.identity(store.signatures(digest)[0])
    entry = {"fingerprint": found.fingerprint, "reason": "card lost"}

    trusted = trusting(store, signers, office, revoked_keys=[entry])

    assert code_of(lambda: trusted.load(digest)) == ErrorCode.ADAPTER_REVOKED


def test_a_certificate_of_another_key_signs_nothing(
    store: AdapterStore, digest: str, office: Office, signers: Signers
) -> None:
    _, certificate = office.certify("safety-office", WEEK)
    core = core_bytes(store.manifest(digest).core)

    assert (
        code_of(
            lambda: signing.sign(core, Terms(signed=START), signers.key("thief"), certificate=certificate)
        )
        == ErrorCode.ADAPTER_UNTRUSTED
    )
    assert not signature_file(store, digest).exists()


@pytest.mark.parametrize("der", ["", "AAAA", "not base64!", None, "MIIB"])
def test_a_certificate_that_is_none_is_a_bad_signature(
    store: AdapterStore, digest: str, office: Office, signers: Signers, der: str | None
) -> None:
    sign(store, digest, office, "safety-office")

    def spoil(content: Any) -> None:
        chain = content["signatures"][0]["bundle"]["verificationMaterial"]["x509CertificateChain"]
        chain["certificates"][0]["rawBytes"] = der

    edit(signature_file(store, digest), spoil)

    assert code_of(lambda: trusting(store, signers, office).load(digest)) == ErrorCode.ADAPTER_BAD_SIGNATURE


def test_a_root_that_is_no_certificate_lets_nothing_through(
    store: AdapterStore, digest: str, office: Office, signers: Signers
) -> None:
    sign(store, digest, office, "safety-office")
    office.root.write_bytes(b"")

    assert code_of(lambda: trusting(store, signers, office).load(digest)) == ErrorCode.ADAPTER_UNTRUSTED
