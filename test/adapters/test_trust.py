"""The trust policy: who must have signed what, until when, and which way an alias may move."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from signed_parts import START, Signers, edit, signature_file, snapshot

from vlaforget_ros.adapters import AdapterStore, LoraWeights, peft_format
from vlaforget_ros.adapters.trust import TrustPolicy
from vlaforget_ros.adapters.trust_file import TrustSettings, read_trust
from vlaforget_ros.errors import AdapterError, ErrorCode

MakeWeights = Callable[..., LoraWeights]
CONFIG = Path(__file__).resolve().parents[2] / "config"
BOTH = {"stable": ["trainer", "safety"]}
UNTRUSTED, EXPIRED = ErrorCode.ADAPTER_UNTRUSTED, ErrorCode.ADAPTER_EXPIRED
REVOKED, NOT_PROMOTABLE = ErrorCode.ADAPTER_REVOKED, ErrorCode.ADAPTER_NOT_PROMOTABLE


def add(store: AdapterStore, make_weights: MakeWeights, name: str = "a") -> str:
    return store.add_weights(make_weights(), {"name": name, "method": "npo", "gates_passed": True}).digest


def refused(call: Callable[[], Any]) -> AdapterError:
    with pytest.raises(AdapterError) as caught:
        call()
    return caught.value


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every adapter whose tensors are decoded."""
    calls: list[int] = []
    decode = peft_format.decode

    def counted(*arguments: Any, **named: Any) -> LoraWeights:
        calls.append(1)
        return decode(*arguments, **named)

    monkeypatch.setattr(peft_format, "decode", counted)
    return calls


def refused_everywhere(
    store: AdapterStore, digest: str, code: ErrorCode, decoded: list[int], alias: str = "candidate"
) -> AdapterError:
    """Neither loaded nor named by an alias: no tensor decoded, nothing in the store changed."""
    before, count = snapshot(store.root), len(decoded)
    error = refused(lambda: store.load(digest))
    assert error.code == code
    assert refused(lambda: store.alias(alias, digest)).code == code
    assert len(decoded) == count
    assert snapshot(store.root) == before
    return error


def test_an_unsigned_adapter_is_served_where_the_policy_says_any(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers, decoded: list[int]
) -> None:
    digest = add(store, make_weights)

    assert signers.store(store, "safety", serve="any").load(digest).digest == digest
    error = refused_everywhere(signers.store(store, "safety"), digest, UNTRUSTED, decoded)
    assert "safety" in str(error.limit)
    assert "vlaforget adapters sign" in error.remedy


def test_a_signature_by_an_unknown_key_counts_as_none(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers, decoded: list[int]
) -> None:
    digest = add(store, make_weights)
    signers.sign(store, digest, "stranger")

    error = refused_everywhere(signers.store(store, "safety"), digest, UNTRUSTED, decoded)

    assert signers.fingerprint("stranger")[:12] in str(error.value)
    assert signers.store(store, "safety", serve="any").load(digest).digest == digest
    assert signers.store(store, "safety").signer(digest).startswith("unknown ")


def test_every_signer_that_an_alias_requires_must_have_signed(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers, decoded: list[int]
) -> None:
    digest = add(store, make_weights)
    signers.sign(store, digest, "trainer")
    trusted = signers.store(store, "trainer", "safety", required=BOTH)

    error = refused(lambda: trusted.alias("stable", digest))
    assert (error.code, error.limit) == (UNTRUSTED, "stable needs safety")
    assert trusted.aliases() == {}
    trusted.alias("candidate", digest)
    assert trusted.load(digest).digest == digest

    signers.sign(store, digest, "safety")
    trusted.alias("stable", digest)
    assert trusted.aliases() == {"candidate": digest, "stable": digest}


def test_an_edited_file_of_aliases_does_not_get_round_the_required_signers(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers, decoded: list[int]
) -> None:
    digest = add(store, make_weights)
    signers.sign(store, digest, "trainer")
    store.alias("stable", digest)
    count = len(decoded)

    error = refused(signers_load(signers.store(store, "trainer", "safety", required=BOTH), digest))

    assert error.code == UNTRUSTED
    assert len(decoded) == count


def signers_load(store: AdapterStore, digest: str) -> Callable[[], LoraWeights]:
    return lambda: store.load(digest)


def test_a_signature_expires_by_the_clock_of_the_policy(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers, decoded: list[int]
) -> None:
    digest = add(store, make_weights)
    signers.sign(store, digest, "safety", expires=timedelta(days=90))
    trusted = signers.store(store, "safety")

    signers.now = START + timedelta(days=90) - timedelta(seconds=1)
    assert trusted.load(digest).digest == digest
    signers.now = START + timedelta(days=90)
    error = refused_everywhere(trusted, digest, EXPIRED, decoded)
    assert "2026-08-30" in str(error)
    assert trusted.signer(digest) == "expired safety"
    assert refused(signers_load(signers.store(store, "safety", serve="any"), digest)).code == EXPIRED

    signers.sign(store, digest, "safety", expires=timedelta(days=1))
    assert trusted.load(digest).digest == digest


def test_a_clock_that_stands_before_the_signature_cannot_vouch_for_its_expiry(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers, decoded: list[int]
) -> None:
    """A robot without a battery for its clock starts in 1970, when nothing has expired yet."""
    digest = add(store, make_weights)
    signers.sign(store, digest, "safety", expires=timedelta(days=90))
    signers.now = START - timedelta(days=20_000)

    error = refused_everywhere(signers.store(store, "safety"), digest, EXPIRED, decoded)
    assert "clock" in error.remedy


def test_a_revoked_adapter_is_refused_whoever_signed_it(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers, decoded: list[int]
) -> None:
    digest = add(store, make_weights)
    signers.sign(store, digest, "safety")
    entry = {"digest": digest, "reason": "drifts into the hand zone"}

    for serve in ("signed", "any"):
        trusted = signers.store(store, "safety", serve=serve, revoked_adapters=[entry])
        error = refused_everywhere(trusted, digest, REVOKED, decoded)
        assert "drifts into the hand zone" in error.message
        assert refused(lambda t=trusted: t.alias("stable", digest, rollback=True)).code == REVOKED  # type: ignore[misc]


def test_revocation_needs_no_readable_signature(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers, decoded: list[int]
) -> None:
    digest = add(store, make_weights)
    signature_file(store, digest).write_bytes(b"not JSON")
    trusted = signers.store(store, revoked_adapters=[{"digest": digest, "reason": "x"}])

    refused_everywhere(trusted, digest, REVOKED, decoded)


def test_a_signature_by_a_revoked_key_does_not_count(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers, decoded: list[int]
) -> None:
    digest = add(store, make_weights)
    signers.sign(store, digest, "trainer")
    entry = {"fingerprint": signers.fingerprint("trainer"), "reason": "laptop stolen"}

    for serve in ("signed", "any"):
        trusted = signers.store(store, "trainer", "safety", serve=serve, revoked_keys=[entry])
        error = refused_everywhere(trusted, digest, REVOKED, decoded)
        assert "laptop stolen" in error.message

    signers.sign(store, digest, "safety")
    assert trusted.load(digest).digest == digest
    assert trusted.signer(digest) == "revoked trainer, safety"


def versions(store: AdapterStore, make_weights: MakeWeights, signers: Signers) -> list[str]:
    """Three adapters, a day apart by their signatures; the first was added last, so its folder says otherwise."""
    digests = [add(store, make_weights, name) for name in ("c", "b", "a")][::-1]
    for digest in digests:
        signers.sign(store, digest, "safety")
        signers.now += timedelta(days=1)
    return digests


def test_a_replayed_older_version_does_not_move_an_alias(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers
) -> None:
    first, second, third = versions(store, make_weights, signers)
    trusted = signers.store(store, "safety")
    trusted.alias("stable", first)
    trusted.alias("stable", second)
    trusted.alias("stable", second)
    before = snapshot(store.root)

    error = refused(lambda: trusted.alias("stable", first))

    assert error.code == NOT_PROMOTABLE
    assert (first[:12] in str(error.value), second[:12] in str(error.limit)) == (True, True)
    assert "--rollback" in error.remedy
    assert snapshot(store.root) == before
    trusted.alias("stable", third)
    assert trusted.aliases() == {"stable": third, "previous": second}


def test_an_operator_goes_back_to_a_version_that_the_alias_named_and_to_no_other(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers
) -> None:
    first, second, third = versions(store, make_weights, signers)
    trusted = signers.store(store, "safety")
    trusted.alias("stable", first)
    trusted.alias("stable", third)

    error = refused(lambda: trusted.alias("stable", second, rollback=True))
    assert error.code == NOT_PROMOTABLE
    assert "history" in str(error.limit)
    trusted.alias("stable", first, rollback=True)

    assert trusted.aliases() == {"stable": first, "previous": third}
    trusted.alias("stable", second)


def test_the_bare_base_is_older_than_every_adapter(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers
) -> None:
    """Moving stable to the base takes every edit off the arm."""
    first, _, _ = versions(store, make_weights, signers)
    trusted = signers.store(store, "safety")
    trusted.alias("stable", "")
    trusted.alias("stable", first)

    assert refused(lambda: trusted.alias("stable", "")).code == NOT_PROMOTABLE
    trusted.alias("stable", "", rollback=True)
    assert trusted.aliases()["stable"] == ""


def test_the_time_of_adding_can_be_edited_and_does_not_make_an_adapter_newer(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers
) -> None:
    first, second, _ = versions(store, make_weights, signers)
    trusted = signers.store(store, "safety")
    trusted.alias("stable", second)

    def newer(content: Any) -> None:
        content["created"] = "2099-01-01T00:00:00Z"

    edit(store.path(first) / "manifest.json", newer)

    assert refused(lambda: trusted.alias("stable", first)).code == NOT_PROMOTABLE
    signers.sign(store, first, "safety")
    trusted.alias("stable", first)


def test_an_alias_gets_away_from_a_revoked_adapter_without_an_operator(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers
) -> None:
    first, second, _ = versions(store, make_weights, signers)
    signers.store(store, "safety").alias("stable", second)
    trusted = signers.store(store, "safety", revoked_adapters=[{"digest": second, "reason": "x"}])

    trusted.alias("stable", first)

    assert trusted.aliases()["stable"] == first


def test_from_an_adapter_that_cannot_be_read_only_an_operator_moves_the_alias(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers
) -> None:
    first, second, third = versions(store, make_weights, signers)
    trusted = signers.store(store, "safety")
    trusted.alias("stable", second)
    (store.path(second) / "manifest.json").write_bytes(b"gone")

    for digest in (first, third):
        assert refused(lambda d=digest: trusted.alias("stable", d)).code == NOT_PROMOTABLE  # type: ignore[misc]
    trusted.alias("stable", third, rollback=True)


def test_a_rollback_of_the_arm_asks_only_whether_the_adapter_was_revoked() -> None:
    settings = TrustSettings.model_validate({"revoked_adapters": [{"digest": "a" * 64, "reason": "drifts"}]})
    policy = TrustPolicy(settings)

    policy.check_rollback("b" * 64)
    policy.check_rollback("")
    assert refused(lambda: policy.check_rollback("a" * 64)).code == REVOKED
    policy.check_rollback("a" * 64, by_operator=True)


def test_a_policy_is_read_and_a_rollback_judged_without_the_signature_library(
    signers: Signers, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = signers.policy_file("safety", revoked_adapters=[{"digest": "a" * 64, "reason": "x"}])
    for name in ("model_signing", "cryptography"):
        monkeypatch.setitem(sys.modules, name, None)

    policy = TrustPolicy.load(path)

    assert refused(lambda: policy.check_rollback("a" * 64)).code == REVOKED
    policy.check_rollback("b" * 64)


def test_without_the_library_a_signed_adapter_is_refused_and_says_what_to_install(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = add(store, make_weights)
    signers.sign(store, digest, "safety")
    trusted = signers.store(store, "safety")
    for missing in ("model_signing", "cryptography.hazmat.primitives"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, missing, None)
            error = refused(lambda: trusted.load(digest))
        assert error.code == UNTRUSTED
        assert "requirements/core.txt" in error.remedy
    assert store.load(digest).digest == digest


def test_the_shipped_example_refuses_nothing(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers
) -> None:
    digest = add(store, make_weights)
    trusted = AdapterStore(store.root, trust=TrustPolicy.load(CONFIG / "trust.yaml"))

    trusted.alias("stable", digest)
    assert trusted.load(digest).digest == digest


def test_the_examples_in_the_shipped_file_are_readable(tmp_path: Path) -> None:
    """Its comments without their #, where the lines are indented."""
    lines = (CONFIG / "trust.yaml").read_text(encoding="utf-8").splitlines()
    opened = [line.replace("#", "", 1) if line.startswith("#  ") else line for line in lines]
    text = "\n".join(line.removesuffix(" {}").removesuffix(" []") for line in opened)
    (tmp_path / "trust.yaml").write_text(text, encoding="utf-8")

    settings = read_trust(tmp_path / "trust.yaml")

    assert set(settings.signers) == {"trainer", "safety-office"}
    assert settings.required["stable"] == ("trainer", "safety-office")
    assert settings.signers["trainer"].public_key == tmp_path / "keys" / "trainer.pub"
    assert (len(settings.revoked_adapters), len(settings.revoked_keys)) == (1, 1)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"signer": {}}, "did you mean signers or serve?"),
        ({"signers": {"x": {"publickey": "x.pub"}}}, "did you mean public_key?"),
        (
            {"required": {"stable": ["saftey"]}, "signers": {"safety": {"public_key": "x"}}},
            "did you mean safety?",
        ),
        ({"required": {"stable": []}}, "required.stable is empty"),
        ({"required": {"Stable": ["x"]}}, "required.Stable"),
        ({"serve": "all"}, "'signed' or 'any'"),
        ({"signers": {"x": {}}}, "either public_key or certificate_roots"),
        ({"signers": {"x": {"certificate_roots": ["a"]}}}, "belong together"),
        ({"revoked_adapters": [{"digest": "abc", "reason": "x"}]}, "revoked_adapters.0.digest"),
        ({"revoked_adapters": [{"digest": "a" * 64}]}, "revoked_adapters.0.reason"),
        ({"revoked_adapters": [{"digest": "a" * 64, "resaon": "x"}]}, "reason"),
        ({"revoked_keys": [{"fingerprint": "a" * 64, "reason": ""}]}, "revoked_keys.0.reason"),
        ([], "112"),
        ("signers", "112"),
    ],
)
def test_a_misspelt_policy_is_refused_with_the_nearest_word(tmp_path: Path, document: Any, said: str) -> None:
    path = tmp_path / "trust.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")

    error = refused(lambda: TrustPolicy.load(path))

    assert error.code == UNTRUSTED
    assert said in str(error)


@pytest.mark.parametrize("content", [b"signers: [", b"\xff\xfe\x00", b" " * (1024 * 1024 + 1)])
def test_a_policy_that_is_no_yaml_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "trust.yaml").write_bytes(content)

    assert refused(lambda: TrustPolicy.load(tmp_path / "trust.yaml")).code == UNTRUSTED
    assert refused(lambda: TrustPolicy.load(tmp_path / "nowhere.yaml")).code == UNTRUSTED


def test_a_missing_key_file_is_met_when_the_policy_is_read(signers: Signers) -> None:
    path = signers.policy_file("safety")
    signers.public("safety").unlink()

    error = refused(lambda: TrustPolicy.load(path))

    assert error.code == UNTRUSTED
    assert "signing.pub" in str(error.value)


def test_a_key_file_that_is_no_public_key_is_refused(
    store: AdapterStore, make_weights: MakeWeights, signers: Signers
) -> None:
    digest = add(store, make_weights)
    signers.sign(store, digest, "safety")
    signers.public("trainer").write_text("not a key", encoding="utf-8")

    error = refused(lambda: signers.store(store, "safety", "trainer").load(digest))

    assert error.code == UNTRUSTED
    assert "trainer" in str(error.value)
