"""What an alias may name: gates that were passed, signatures that the policy requires, no step back by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vlaforget_ros.adapters import evidence
from vlaforget_ros.adapters.manifest import Manifest
from vlaforget_ros.adapters.trust import Finding, State
from vlaforget_ros.errors import AdapterError, ErrorCode


@dataclass(frozen=True)
class Version:
    """An adapter in the order in which adapters came.

    Args:
        digest: "" is the base model, older than everything.
        since: when it was last signed by somebody who counts, or was added where nobody did; None where that
            cannot be found out.
    """

    digest: str
    since: datetime | None


def version(manifest: Manifest, findings: Iterable[Finding]) -> Version:
    """The version of an adapter, by the latest of its good signatures.

    The time of adding is outside the digest, so it counts only where there is no signature.
    """
    signed = [finding.signed for finding in findings if finding.state is State.GOOD]
    return Version(manifest.digest, max(signed, default=manifest.created))


def check_gates(name: str, manifest: Manifest) -> None:
    """Raises AdapterError 108 where ``stable`` is to name an adapter that failed a gate."""
    if name != "stable":
        return
    if not manifest.core.gates_passed:
        raise AdapterError(
            ErrorCode.ADAPTER_NOT_PROMOTABLE,
            f"adapter {manifest.name} did not pass its gates",
            value=manifest.digest,
            remedy="read the report of the edit; only an adapter with gates_passed becomes stable",
        )
    evidence.check_promotable(manifest.name, manifest.evidence)


def check_order(
    name: str, current: Version, wanted: Version, named_before: Iterable[str], rollback: bool
) -> None:
    """Keep an alias from going back to an older adapter, unless a person says so.

    Args:
        name: the alias.
        current: what it names.
        wanted: what it is to name.
        named_before: digests that it named according to the history.
        rollback: a person asks for the step back.

    Raises:
        AdapterError: 108 for a step back that nobody asked for, or to an adapter that the alias never named.
    """
    if current.digest == wanted.digest or not _older(wanted, current):
        return
    if not rollback:
        raise AdapterError(
            ErrorCode.ADAPTER_NOT_PROMOTABLE,
            f"{name} names a newer adapter",
            value=_said(wanted),
            limit=_said(current),
            remedy="an operator goes back with: vlaforget adapters alias NAME ADAPTER --rollback",
        )
    if current.since is not None and wanted.digest and wanted.digest not in set(named_before):
        raise AdapterError(
            ErrorCode.ADAPTER_NOT_PROMOTABLE,
            f"{name} never named this older adapter",
            value=_said(wanted),
            limit="an adapter from the alias events of `vlaforget adapters history`",
            remedy="have it signed again if it is to be served: that makes it newer",
        )


def named_by(name: str, history: Iterable[Mapping[str, Any]]) -> set[str]:
    """Digests that an alias named."""
    return {str(event["digest"]) for event in history if event.get("alias") == name and "digest" in event}


def _older(one: Version, other: Version) -> bool:
    if not other.digest:
        return False
    if not one.digest or one.since is None or other.since is None:
        return True
    return one.since < other.since


def _said(what: Version) -> str:
    if not what.digest:
        return "the base model"
    return (
        f"{what.digest[:12]}, {what.since:%Y-%m-%d %H:%M:%S}"
        if what.since
        else f"{what.digest[:12]}, unreadable"
    )
