"""The manifest: what an adapter is, where it came from, and the digest that covers both.

The digest is the SHA-256 of the core as canonical JSON (sorted keys, no spaces, UTF-8). The core lists the
SHA-256 of the weight and configuration files, so one digest covers every byte of the adapter and its whole
origin. What is measured on it later is evidence beside the core, outside the digest.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from vlaforget_ros.adapters.evidence import failed_gates
from vlaforget_ros.errors import AdapterError, ErrorCode

MANIFEST_FILE = "manifest.json"
SIGNATURE_FILE = "signature.json"
MAX_MANIFEST_BYTES = 8 * 1024 * 1024
RESERVED_NAMES = ("base", "stable", "candidate", "previous")
_FORMAT = 1
_LATER_FIELDS = ("reason", "requester")
_DIGEST = r"[0-9a-f]{64}"
_DIGEST_OR_EMPTY = rf"^({_DIGEST})?$"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._+-]{0,99}")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Provenance(_Strict):
    """What whoever made an adapter says about it; everything else is computed from its files.

    ``components``, ``layers`` are the edited ones by their names in the model; ``request_sha256`` is the hash
    of the edit request, ``datasets`` maps forget, retain, boundary ... to the hash of the episodes that were
    used, ``metrics`` are gate metrics by name. ``base_digest`` may be left out when adapter_config.json names
    it. ``reason`` and ``requester`` are those of the edit request: why, and who asked.
    """

    name: str
    method: str
    base_digest: str = Field(default="", pattern=_DIGEST_OR_EMPTY)
    parent_digest: str = Field(default="", pattern=_DIGEST_OR_EMPTY)
    components: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    request_sha256: str = Field(default="", pattern=_DIGEST_OR_EMPTY)
    gates_passed: bool = False
    metrics: dict[str, float] = Field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    versions: dict[str, str] = Field(default_factory=dict)
    datasets: dict[str, str] = Field(default_factory=dict)
    reason: str = ""
    requester: str = ""

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name) or name in RESERVED_NAMES or re.fullmatch(r"[0-9a-f]{8,64}", name):
            raise ValueError(
                f"{name!r} cannot name an adapter: a letter, then letters, digits and . _ + - (100 at most); "
                f"not {', '.join(RESERVED_NAMES)}, nor what looks like a digest"
            )
        return name

    @field_validator("metrics")
    @classmethod
    def _finite(cls, metrics: dict[str, float]) -> dict[str, float]:
        bad = [name for name, value in metrics.items() if not abs(value) < float("inf")]
        if bad:
            raise ValueError(f"metrics must be finite: leave out {', '.join(bad)}")
        return metrics


class FileEntry(_Strict):
    """One file of the adapter."""

    sha256: str = Field(pattern=f"^{_DIGEST}$")
    bytes: int = Field(ge=0)


class Core(Provenance):
    """All that the digest covers: the provenance, and what was computed from the files."""

    format: int = Field(default=_FORMAT, ge=1, le=_FORMAT)
    rank: int = Field(ge=1)
    modules: tuple[str, ...]
    files: dict[str, FileEntry]


class Manifest(_Strict):
    """The manifest of one adapter in the store.

    Args:
        digest: names the adapter; SHA-256 of ``core``.
        created: when it was added (UTC); outside the digest: equal content has one digest.
        core: everything else that was known then.
        evidence: what was measured since, by kind; outside the digest, like ``created``.
    """

    digest: str = Field(pattern=f"^{_DIGEST}$")
    created: AwareDatetime
    core: Core
    evidence: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @field_validator("evidence")
    @classmethod
    def _readable_gates(cls, evidence: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """A gate that cannot be read must not be taken for one that passed."""
        failed_gates(evidence)
        return evidence

    @property
    def name(self) -> str:
        return self.core.name

    @property
    def base_digest(self) -> str:
        return self.core.base_digest

    @property
    def gates_passed(self) -> bool:
        """Whether no gate failed, neither of the edit nor of later evidence."""
        return self.core.gates_passed and not failed_gates(self.evidence)

    @property
    def judged(self) -> bool:
        """Whether any gate looked at it: no edit of ours made one that was trained elsewhere."""
        core = self.core
        return bool(core.request_sha256 or core.metrics or core.gates_passed or failed_gates(self.evidence))

    @property
    def gates(self) -> str:
        """``passed``, ``failed`` or ``none``, for people to read."""
        return ("passed" if self.gates_passed else "failed") if self.judged else "none"

    @property
    def size_bytes(self) -> int:
        """Size of the adapter's files on disk [B], the manifest not counted."""
        return sum(entry.bytes for entry in self.core.files.values())

    def to_json(self) -> bytes:
        return (json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True) + "\n").encode()


def sha256(content: bytes) -> str:
    """SHA-256 as 64 lower-case hex digits."""
    return hashlib.sha256(content).hexdigest()


def core_bytes(core: Core) -> bytes:
    """The core as canonical JSON: what the digest of an adapter is computed from, and what signatures cover.

    Fields that came after the first release count only where they say something: adapters that were stored before
    keep their digests.
    """
    values = core.model_dump(mode="json")
    text = json.dumps(
        {name: value for name, value in values.items() if value or name not in _LATER_FIELDS},
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    )
    return text.encode()


def core_digest(core: Core) -> str:
    """Digest of an adapter: SHA-256 of its core as canonical JSON."""
    return sha256(core_bytes(core))


def parse_provenance(given: Provenance | Mapping[str, Any]) -> Provenance:
    """Check what was said about an adapter. Raises AdapterError 103 naming the field."""
    if isinstance(given, Provenance):
        return given
    try:
        return Provenance.model_validate(dict(given))
    except ValidationError as error:
        raise _bad_manifest("the provenance of the adapter", error, "correct the named field") from error


def parse_manifest(content: bytes, expected_digest: str = "") -> Manifest:
    """Read a manifest and check that its core has the digest under which it was found ("": the one that it names).

    Raises:
        AdapterError: 103 for anything else than the untouched manifest of that adapter.
    """
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise _bad_manifest(MANIFEST_FILE, error, _TAMPERED) from error
    computed = core_digest(manifest.core)
    expected_digest = expected_digest or manifest.digest
    if not computed == manifest.digest == expected_digest:
        raise AdapterError(
            ErrorCode.ADAPTER_BAD_DIGEST,
            f"{MANIFEST_FILE} was changed after it was written",
            value=f"digest {computed}",
            limit=expected_digest,
            remedy=_TAMPERED,
        )
    return manifest


def check_files(manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Check that files are those of the manifest. Raises AdapterError 103 naming the first that is not."""
    for name, entry in manifest.core.files.items():
        found = sha256(files[name]) if name in files else "missing"
        if found != entry.sha256:
            raise AdapterError(
                ErrorCode.ADAPTER_BAD_DIGEST,
                f"{name} of adapter {manifest.name} was changed after it was written",
                value=f"sha256 {found}",
                limit=entry.sha256,
                remedy=_TAMPERED,
            )


_TAMPERED = (
    "the disk failed or the file was tampered with: remove this adapter and add it again from its source"
)


def _bad_manifest(what: str, error: ValidationError, remedy: str) -> AdapterError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return AdapterError(
        ErrorCode.ADAPTER_BAD_DIGEST,
        f"{what}: {where} {first['msg']}",
        value=str(first.get("input"))[:80],
        remedy=remedy,
    )
