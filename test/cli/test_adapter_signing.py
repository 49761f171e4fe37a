"""``vlaforget adapters keys | sign | verify | alias --trust`` as a person uses them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import Result
from signed_parts import Office
from typer.testing import CliRunner

from vlaforget_ros.adapters import AdapterStore, LoraWeights
from vlaforget_ros.cli.adapter_signing import expiry
from vlaforget_ros.cli.app import app
from vlaforget_ros.errors import AdapterError, ErrorCode

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)


class Desk:
    """A store with one adapter, a key and a policy, and the command."""

    def __init__(self, root: Path) -> None:
        self.store, self.trust = root / "store", root / "trust.yaml"
        self.key = root / "keys" / "signing.key"
        self.root = root
        self.digest = self.add("fix")

    def add(self, name: str) -> str:
        tensors = {"projector.fc1": (torch.ones(2, 4), torch.ones(8, 2))}
        weights = LoraWeights.from_tensors(tensors, alpha=4.0, base_digest="ab" * 32)
        provenance = {"name": name, "method": "npo", "gates_passed": True}
        return AdapterStore(self.store).add_weights(weights, provenance).digest

    def policy(self, **more: Any) -> None:
        known = {"safety": {"public_key": "keys/signing.pub"}}
        self.trust.write_text(yaml.safe_dump({"signers": known, **more}), encoding="utf-8")

    def __call__(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, ["adapters", *arguments])

    def on_store(self, *arguments: str) -> Result:
        return self(*arguments, "--store", str(self.store))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path)
    assert desk("keys", "new", str(tmp_path / "keys")).exit_code == 0
    desk.policy()
    return desk


def code_of(result: Result) -> ErrorCode:
    assert isinstance(result.exception, AdapterError), result.output
    return result.exception.code


def test_an_adapter_is_signed_listed_verified_and_promoted(desk: Desk) -> None:
    refused = desk.on_store("verify", "--trust", str(desk.trust))
    assert (refused.exit_code, "112" in refused.output) == (1, True)

    signed = desk.on_store("sign", "fix", "--key", str(desk.key), "--expires", "90d")

    assert signed.exit_code == 0, signed.output
    assert desk.digest[:12] in signed.output
    assert "until" in signed.output
    found = desk.on_store("verify", "fix", "--trust", str(desk.trust), "--json")
    assert found.exit_code == 0
    assert json.loads(found.output) == [
        {"digest": desk.digest, "name": "fix", "signer": "safety", "code": 0, "error": ""}
    ]
    listed = desk.on_store("list", "--json", "--trust", str(desk.trust))
    assert json.loads(listed.output)[0]["signer"] == "safety"
    assert desk.on_store("alias", "stable", "fix", "--trust", str(desk.trust)).exit_code == 0
    assert AdapterStore(desk.store).aliases() == {"stable": desk.digest}
    events = json.loads(desk.on_store("history", "--json").output)
    assert [event["event"] for event in events] == ["added", "signed", "alias"]


def test_verify_without_a_policy_says_that_nobody_vouches(desk: Desk) -> None:
    desk.on_store("sign", "fix", "--key", str(desk.key))

    found = desk.on_store("verify")

    assert found.exit_code == 0
    assert "no trust policy" in found.output
    assert "unverified" in found.output


def test_signing_says_what_it_did_as_json(desk: Desk) -> None:
    signed = json.loads(desk.on_store("sign", "fix", "--key", str(desk.key), "--json").output)

    shown = desk("keys", "show", str(desk.root / "keys" / "signing.pub")).output.strip()
    assert (signed["digest"], signed["fingerprint"], signed["expires"]) == (desk.digest, shown, None)


def test_a_certificate_is_signed_with_as_well(desk: Desk) -> None:
    office = Office(desk.root)
    key, certificate = office.certify("safety-office", timedelta(days=3650))
    known = {"office": {"certificate_roots": ["root/root.pem"], "common_name": "safety-office"}}
    desk.policy(signers=known)

    signed = desk.on_store("sign", "fix", "--key", str(key), "--certificate", str(certificate))

    assert signed.exit_code == 0, signed.output
    found = json.loads(desk.on_store("verify", "--trust", str(desk.trust), "--json").output)
    assert [(row["signer"], row["code"]) for row in found] == [("office", 0)]


def test_changed_weights_are_not_signed(desk: Desk) -> None:
    file = desk.store / "adapters" / desk.digest / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")

    assert code_of(desk.on_store("sign", "fix", "--key", str(desk.key))) == ErrorCode.ADAPTER_BAD_DIGEST
    assert not (file.parent / "signature.json").exists()


def test_the_base_model_cannot_be_signed(desk: Desk) -> None:
    assert code_of(desk.on_store("sign", "base", "--key", str(desk.key))) == ErrorCode.ADAPTER_UNKNOWN


def test_an_alias_goes_back_only_with_rollback(desk: Desk) -> None:
    later = desk.add("later")
    for name in ("fix", "later"):
        desk.on_store("sign", name, "--key", str(desk.key))
    _sign_earlier(desk)
    moves = ("alias", "stable")
    trust = ("--trust", str(desk.trust))
    assert desk.on_store(*moves, "fix", *trust).exit_code == 0
    assert desk.on_store(*moves, "later", *trust).exit_code == 0

    assert code_of(desk.on_store(*moves, "fix", *trust)) == ErrorCode.ADAPTER_NOT_PROMOTABLE
    assert AdapterStore(desk.store).aliases()["stable"] == later
    assert desk.on_store(*moves, "fix", "--rollback", *trust).exit_code == 0
    assert AdapterStore(desk.store).aliases()["stable"] == desk.digest


def _sign_earlier(desk: Desk) -> None:
    """Sign `fix` as on an earlier day."""
    from vlaforget_ros.adapters import signing
    from vlaforget_ros.adapters.manifest import core_bytes
    from vlaforget_ros.adapters.signatures import Terms

    store = AdapterStore(desk.store)
    core = core_bytes(store.manifest(desk.digest).core)
    store.add_signature(
        desk.digest, signing.sign(core, Terms(signed=datetime(2026, 1, 1, tzinfo=UTC)), desk.key)
    )


def test_an_unusable_policy_or_key_is_a_coded_error(desk: Desk) -> None:
    desk.policy(required={"stable": ["saftey"]})
    assert code_of(desk.on_store("verify", "--trust", str(desk.trust))) == ErrorCode.ADAPTER_UNTRUSTED
    missing = desk.on_store("sign", "fix", "--key", str(desk.root / "nowhere"))
    assert code_of(missing) == ErrorCode.ADAPTER_UNTRUSTED
    inside = desk("keys", "new", str(desk.store / "keys"))
    assert code_of(inside) == ErrorCode.ADAPTER_UNTRUSTED
    assert code_of(desk("keys", "new", str(desk.root / "keys"))) == ErrorCode.ADAPTER_UNTRUSTED


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("90d", datetime(2027, 2, 20, 10, tzinfo=UTC)),
        ("2027-01-31", datetime(2027, 2, 1, tzinfo=UTC)),
        ("2026-11-22", datetime(2026, 11, 23, tzinfo=UTC)),
    ],
)
def test_an_expiry_is_a_day_or_some_days(text: str, expected: datetime | None) -> None:
    assert expiry(text, NOW) == expected


@pytest.mark.parametrize("text", ["2026-11-21", "2027-02-30", "soon", "0d", "-3d", "99999999d", "20270131"])
def test_another_expiry_is_refused(text: str) -> None:
    with pytest.raises(AdapterError) as caught:
        expiry(text, NOW)
    assert caught.value.code == ErrorCode.ADAPTER_EXPIRED
    assert caught.value.value == text
