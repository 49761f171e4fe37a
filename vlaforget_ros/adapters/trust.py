"""Whom a robot believes: signers, what each alias requires, expiry and revocation.

All decisions are in :class:`TrustPolicy`; the store asks it before an alias moves and before an adapter is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path

from vlaforget_ros.adapters.keys import fingerprint
from vlaforget_ros.adapters.signatures import Signed
from vlaforget_ros.adapters.signing import Anchor, Identity, identity, verify
from vlaforget_ros.adapters.trust_file import TrustSettings, read_trust, unusable
from vlaforget_ros.errors import AdapterError, ErrorCode

# A signature from later than this after now: the clock of this machine is behind, and no expiry can be believed.
_CLOCK_SLACK = timedelta(hours=1)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class State(Enum):
    """What a signature is worth now."""

    GOOD = "good"
    EXPIRED = "expired"
    REVOKED = "revoked"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Finding:
    """One signature of an adapter, judged.

    Args:
        signer: name in the policy, "" where the policy knows none.
        fingerprint: of the key.
        state: what the signature is worth.
        signed: when it was made.
        why: of a state that is not good.
    """

    signer: str
    fingerprint: str
    state: State
    signed: datetime
    why: str = ""


@dataclass(frozen=True)
class _Rules:
    """Settings with everything that is looked up in them."""

    settings: TrustSettings
    anchors: Mapping[str, Anchor]
    revoked: Mapping[str, str]
    revoked_keys: Mapping[str, str]

    @classmethod
    def of(cls, settings: TrustSettings) -> _Rules:
        return cls(
            settings,
            # Read now, so that a missing file is met at start and not at the first swap.
            {name: _anchor(name, settings) for name in settings.signers},
            {entry.digest: entry.reason for entry in settings.revoked_adapters},
            {entry.fingerprint: entry.reason for entry in settings.revoked_keys},
        )


class TrustPolicy:
    """Decides which adapters may be served and what an alias may name.

    Args:
        settings: as read from a file.
        now: clock for expiry.
        path: the file, to look again when it changes; None: the settings stay.

    Raises:
        AdapterError: 112 where the file of a key or certificate cannot be read.
    """

    def __init__(
        self, settings: TrustSettings, now: Callable[[], datetime] = _utc_now, path: Path | None = None
    ) -> None:
        self._now = now
        self._path = path
        self._stamp = None if path is None else _stamp(path)
        self._rules = _Rules.of(settings)

    @classmethod
    def load(cls, path: Path, now: Callable[[], datetime] = _utc_now) -> TrustPolicy:
        """Read a policy. Raises AdapterError 112 naming what is wrong with the file."""
        return cls(read_trust(path), now, path)

    def refresh(self) -> None:
        """Read the file again if it changed: what was revoked meanwhile is refused without a restart.

        Raises:
            AdapterError: 112 where it can no longer be used; the rules in memory stay as they were.
        """
        if self._path is None:
            return
        stamp = _stamp(self._path)
        if stamp != self._stamp:
            # One assignment: another thread sees the old rules or the new ones.
            self._rules = _Rules.of(read_trust(self._path))
            self._stamp = stamp

    def check(
        self, digest: str, core: bytes, signatures: Sequence[Signed], aliases: Iterable[str] = ()
    ) -> list[Finding]:
        """Check that an adapter may be served, or may be what some aliases name.

        Args:
            digest: of the adapter.
            core: canonical JSON of its core.
            signatures: what lies beside its manifest.
            aliases: that name it or are to name it.

        Returns:
            its signatures, judged.

        Raises:
            AdapterError: 102 a signature that does not hold, 112 no signature of a signer that is needed, 113 only an
                expired one, 114 a revoked adapter, or only a signature by a revoked key.
        """
        self.check_digest(digest)
        findings = self.findings(core, signatures)
        settings = self._rules.settings
        for alias in sorted(set(aliases) & set(settings.required)):
            for name in settings.required[alias]:
                self._check_one_good([f for f in findings if f.signer == name], name, f"{alias} needs {name}")
        known = [finding for finding in findings if finding.signer]
        if known or settings.serve == "signed":
            names = ", ".join(sorted(settings.signers)) or "no signer is configured"
            self._check_one_good(known, names, f"one of: {names}", findings)
        return findings

    def check_digest(self, digest: str) -> None:
        """Raises AdapterError 114 for a revoked adapter. Needs neither disk nor signature library."""
        if self.revoked(digest):
            raise AdapterError(
                ErrorCode.ADAPTER_REVOKED,
                f"the adapter was revoked: {self._rules.revoked[digest]}",
                value=digest,
                remedy="serve another adapter; take it from revoked_adapters if that was a mistake",
            )

    def revoked(self, digest: str) -> bool:
        """Whether an adapter was revoked."""
        return digest in self._rules.revoked

    def check_rollback(self, digest: str, *, by_operator: bool = False) -> None:
        """Check whether the way back may lead to an adapter that is resident, with the store dead.

        Only revocation counts here: a rollback takes the arm out of a situation, and must not wait for files.

        Args:
            digest: where it leads; "" is the base model.
            by_operator: a person asked for this adapter explicitly and answers for it.

        Raises:
            AdapterError: 114 for a revoked adapter that no person asked for.
        """
        if not by_operator:
            self.check_digest(digest)

    def findings(self, core: bytes, signatures: Sequence[Signed]) -> list[Finding]:
        """All signatures of an adapter, judged; one by an unknown key cannot be verified and counts as none.

        Raises:
            AdapterError: 102 for one that claims a known signer and does not hold.
        """
        found = []
        for signed in signatures:
            claimed = identity(signed)
            names = self._names(claimed)
            for name in names:
                verify(signed, core, self._rules.anchors[name])
                found.append(self._judged(name, claimed, signed))
            if not names:
                found.append(
                    Finding("", claimed.fingerprint, State.UNKNOWN, signed.terms.signed, "unknown key")
                )
        return found

    def _names(self, claimed: Identity) -> list[str]:
        found = []
        for name, signer in self._rules.settings.signers.items():
            if signer.public_key is None:
                known = claimed.valid is not None and claimed.common_name == signer.common_name
            else:
                known = claimed.valid is None and claimed.fingerprint == fingerprint(
                    self._rules.anchors[name].pem, signer.public_key
                )
            if known:
                found.append(name)
        return found

    def _judged(self, name: str, claimed: Identity, signed: Signed) -> Finding:
        """The state of a signature that was verified."""
        now, terms = self._now(), signed.terms
        state, why = State.GOOD, ""
        ends = [terms.expires] if terms.expires else []
        starts = [terms.signed]
        if claimed.valid is not None:
            # The library asks whether the certificate was valid when it began to be; we ask whether it is now.
            starts.append(claimed.valid[0])
            ends.append(claimed.valid[1])
        if claimed.fingerprint in self._rules.revoked_keys:
            state, why = State.REVOKED, f"key revoked: {self._rules.revoked_keys[claimed.fingerprint]}"
        elif ends and now >= min(ends):
            state, why = State.EXPIRED, f"expired {min(ends):%Y-%m-%d %H:%M} UTC"
        elif now + _CLOCK_SLACK < max(starts):
            state, why = State.EXPIRED, f"made at {max(starts):%Y-%m-%d %H:%M} UTC, after this machine's now"
        return Finding(name, claimed.fingerprint, state, terms.signed, why)

    def _check_one_good(
        self, found: Sequence[Finding], wanted: str, limit: str, unknown: Sequence[Finding] = ()
    ) -> None:
        if any(finding.state is State.GOOD for finding in found):
            return
        for state, code in (
            (State.REVOKED, ErrorCode.ADAPTER_REVOKED),
            (State.EXPIRED, ErrorCode.ADAPTER_EXPIRED),
        ):
            for finding in found:
                if finding.state is state:
                    raise AdapterError(
                        code,
                        f"the signature of {finding.signer} does not count: {finding.why}",
                        value=f"now {self._now():%Y-%m-%d %H:%M} UTC",
                        limit=limit,
                        remedy="have it signed again with a key that counts, or set the clock of this machine",
                    )
        strangers = ", ".join(finding.fingerprint[:12] for finding in unknown if not finding.signer)
        raise AdapterError(
            ErrorCode.ADAPTER_UNTRUSTED,
            "the adapter is not signed by whom this robot trusts",
            value=f"signed by unknown keys {strangers}" if strangers else "no such signature",
            limit=limit,
            remedy=f"vlaforget adapters sign ADAPTER --key FILE, with the key of {wanted}",
        )


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise unusable(f"the trust policy cannot be read: {error.strerror}", path) from error
    return status.st_ino, status.st_mtime_ns, status.st_size


def _anchor(name: str, settings: TrustSettings) -> Anchor:
    signer = settings.signers[name]
    paths = signer.certificate_roots if signer.public_key is None else (signer.public_key,)
    try:
        return Anchor(b"".join(path.read_bytes() for path in paths), roots=signer.public_key is None)
    except OSError as error:
        raise unusable(f"signer {name}: {error.strerror}", error.filename, "correct the path") from error
