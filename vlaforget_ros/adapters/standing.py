"""What a trust policy says of the adapters of a store: before a load, before an alias moves, for people to read."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from vlaforget_ros.adapters.manifest import Manifest, core_bytes
from vlaforget_ros.adapters.promotion import Version, check_gates, check_order, named_by, version
from vlaforget_ros.adapters.signatures import Signed
from vlaforget_ros.adapters.signing import identity
from vlaforget_ros.adapters.trust import Finding, State, TrustPolicy
from vlaforget_ros.errors import AdapterError

_log = logging.getLogger(__name__)


class Shelf(Protocol):
    """What is read of a store; :class:`vlaforget_ros.adapters.store.AdapterStore` is one."""

    def manifest(self, digest: str) -> Manifest: ...
    def signatures(self, digest: str) -> tuple[Signed, ...]: ...
    def aliases(self) -> Mapping[str, str]: ...
    def history(self) -> list[dict[str, Any]]: ...


class Standing:
    """Asks a trust policy about adapters of a store.

    Args:
        shelf: the store.
        trust: the policy; None believes everybody.
    """

    def __init__(self, shelf: Shelf, trust: TrustPolicy | None) -> None:
        self._shelf = shelf
        self._trust = trust

    def check_load(self, manifest: Manifest) -> None:
        """Check that an adapter may be given out, with what every alias that names it requires.

        The file of aliases is not signed and may have been edited: what they require is asked here as well.

        Raises:
            AdapterError: 102, 112-114 as :meth:`TrustPolicy.check`.
        """
        if self._trust is not None:
            self._trust.refresh()
            aliases = self._shelf.aliases()
            named = [name for name, target in aliases.items() if target == manifest.digest]
            self._checked(manifest, self._trust, named)

    def check_alias(self, name: str, digest: str, rollback: bool) -> None:
        """Check that an alias may name an adapter, or with "" the base model.

        Raises:
            AdapterError: 100 unknown digest, 102, 112-114 as :meth:`TrustPolicy.check`, 108 for a failed gate or a
                step back that nobody asked for.
        """
        manifest = self._shelf.manifest(digest) if digest else None
        if manifest is not None:
            check_gates(name, manifest)
        if self._trust is None:
            return
        self._trust.refresh()
        wanted = Version("", None)
        if manifest is not None:
            wanted = version(manifest, self._checked(manifest, self._trust, [name]))
        current = self._current(name, self._trust)
        if current is not None:
            before = named_by(name, self._shelf.history()) if rollback else ()
            check_order(name, current, wanted, before, rollback)

    def check_revoked(self, digest: str) -> None:
        """Check an adapter that is in memory already: the store is not read, the policy is, where it changed.

        Raises:
            AdapterError: 112 where the policy can no longer be used, 114 for a revoked adapter.
        """
        if self._trust is not None:
            self._trust.refresh()
            self._trust.check_digest(digest)

    def check_rollback(self, digest: str, by_operator: bool) -> None:
        """As :meth:`TrustPolicy.check_rollback`: nothing is read from the disk."""
        if self._trust is not None:
            self._trust.check_rollback(digest, by_operator=by_operator)

    def signer(self, digest: str) -> str:
        """Who signed an adapter, for people to read: names from the trust policy, "" where nobody did.

        Without a policy nothing is verified, and the text says so; a signature that does not hold is named by the code
        of its error.
        """
        try:
            found = self._shelf.signatures(digest)
            if self._trust is None:
                return ", ".join(f"unverified {identity(signed).fingerprint[:12]}" for signed in found)
            if not found:
                return ""
            self._trust.refresh()
            findings = self._trust.findings(core_bytes(self._shelf.manifest(digest).core), found)
        except AdapterError as error:
            _log.warning("signatures of adapter %s: %s", digest[:12], error)
            return f"error {int(error.code)}"
        return ", ".join(described(finding) for finding in findings)

    def _checked(self, manifest: Manifest, trust: TrustPolicy, aliases: Iterable[str]) -> list[Finding]:
        digest = manifest.digest
        # First, because a revoked adapter needs no further look at its files.
        trust.check_digest(digest)
        return trust.check(digest, core_bytes(manifest.core), self._shelf.signatures(digest), aliases)

    def _current(self, name: str, trust: TrustPolicy) -> Version | None:
        """What an alias names, in the order of adapters; None where any way from there is forward."""
        digest = self._shelf.aliases().get(name, "")
        if not digest or trust.revoked(digest):
            return None
        try:
            manifest = self._shelf.manifest(digest)
            found = trust.findings(core_bytes(manifest.core), self._shelf.signatures(digest))
        except AdapterError as error:
            _log.warning("%s names adapter %s, which cannot be read: %s", name, digest[:12], error)
            return Version(digest, None)
        return version(manifest, found)


def described(finding: Finding) -> str:
    """A signature in a word or two: the signer, or what is wrong and the key."""
    if finding.state is State.GOOD:
        return finding.signer
    return f"{finding.state.value} {finding.signer or finding.fingerprint[:12]}"
