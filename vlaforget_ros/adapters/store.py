"""The content-addressed store of adapters: what is in it stays what it is, whatever becomes of the process.

::

    <root>/adapters/<digest>/   adapter_config.json, adapter_model.safetensors, manifest.json;
                                signature.json where somebody signed it
    <root>/aliases.json         movable names: stable, candidate, previous and the user's own
    <root>/history.jsonl        one line per event, only ever appended to
    <root>/transfers/           downloads under way (:mod:`vlaforget_ros.adapters.exchange`)
    <root>/incoming/            copies under way; leftovers of killed processes, swept by the next add

Reading takes no lock and creates nothing. Writers of all processes take turns through a file lock. An adapter
comes into being by one rename of a whole, synced directory: it is there with every byte, or not at all. Of what is
there only the manifest's evidence and the signatures change later, their files replaced as a whole.
"""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vlaforget_ros.adapters import evidence, peft_format, signatures
from vlaforget_ros.adapters.core import core_of
from vlaforget_ros.adapters.files import (
    coded,
    locked,
    read_limited,
    replace_file,
    sync_directory,
    write_synced,
)
from vlaforget_ros.adapters.history import History
from vlaforget_ros.adapters.lora import DEFAULT_RANK_LIMIT, LoraWeights
from vlaforget_ros.adapters.manifest import (
    MANIFEST_FILE,
    MAX_MANIFEST_BYTES,
    SIGNATURE_FILE,
    Manifest,
    Provenance,
    check_files,
    core_digest,
    parse_manifest,
    parse_provenance,
)
from vlaforget_ros.adapters.names import Aliases, check_base, is_digest, resolve, unknown
from vlaforget_ros.adapters.signatures import Signed
from vlaforget_ros.adapters.signing import identity
from vlaforget_ros.adapters.standing import Standing
from vlaforget_ros.adapters.trust import TrustPolicy
from vlaforget_ros.errors import AdapterError, ErrorCode

_log = logging.getLogger(__name__)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class AdapterStore:
    """Adapters on disk, named by digest; "" is the base model everywhere.

    Any number of processes and threads may use stores on one root.

    Args:
        root: directory of the store; it is created by the first write.
        rank_limit: largest LoRA rank that is accepted in and given out.
        now: clock for the times in manifests and history.
        trust: whose adapters are given out by :meth:`load` and named by :meth:`alias`; None: all of them.
    """

    def __init__(
        self,
        root: Path,
        *,
        rank_limit: int = DEFAULT_RANK_LIMIT,
        now: Callable[[], datetime] = _utc_now,
        trust: TrustPolicy | None = None,
    ) -> None:
        self.root = Path(root)
        self.rank_limit = rank_limit
        self._now = now
        self._adapters = self.root / "adapters"
        self._incoming = self.root / "incoming"
        self._history = History(self.root / "history.jsonl", now)
        self._aliases = Aliases(self.root / "aliases.json")
        self._standing = Standing(self, trust)

    # --- writing

    def add(self, directory: Path, provenance: Provenance | Mapping[str, Any]) -> Manifest:
        """Check a PEFT adapter directory and take a copy of it into the store.

        Adding the same content and provenance again gives the manifest that is already there.

        Raises:
            AdapterError: 100 files or parent missing, 101 other base than stated, 103 bad provenance, 104 not
                plain LoRA, 105 non-finite, 106 over the rank limit, 107 disk full or failing; the store is
                then as before.
        """
        return self._add(peft_format.read_files(directory), parse_provenance(provenance))

    def add_weights(self, weights: LoraWeights, provenance: Provenance | Mapping[str, Any]) -> Manifest:
        """As :meth:`add`, straight from memory."""
        return self._add(peft_format.encode(weights), parse_provenance(provenance))

    def adopt(
        self, files: Mapping[str, bytes], content: bytes, *, signature: bytes | None, source: str
    ) -> Manifest:
        """Take in an adapter of another store under the digest that it has there, with its evidence.

        One that is here already stays as it is: only evidence of kinds that it lacks, and a signature where it has
        none, are added. Its parent need not be here.

        Args:
            files: content of its two files by name.
            content: of its manifest, kept as it is: a signature may cover it.
            signature: content of its signature file, copied as it is; None where it has none.
            source: where it came from, for the history.

        Raises:
            AdapterError: 101 its files name another base, 103 the manifest does not describe the files, 104-106 as in
                :meth:`add`, 107 disk; the store is then as before.
        """
        manifest = parse_manifest(content)
        check_files(manifest, files)
        weights = peft_format.decode(files, rank_limit=self.rank_limit)
        core, digest = core_of(files, weights, manifest.core), manifest.digest
        parse_manifest(manifest.model_copy(update={"core": core}).to_json(), digest)
        with self._exclusive():
            if (self._adapters / digest).is_dir():
                self.load(digest)
                if signature is not None and not (self._adapters / digest / SIGNATURE_FILE).exists():
                    replace_file(self._adapters / digest / SIGNATURE_FILE, signature)
            else:
                beside = {} if signature is None else {SIGNATURE_FILE: signature}
                self._move_in(digest, {**files, **beside, MANIFEST_FILE: content})
                said = {"name": core.name, "method": core.method, "parent_digest": core.parent_digest}
                self.record("imported", digest, **said, source=source)
        for kind in sorted(set(manifest.evidence) - set(self.manifest(digest).evidence)):
            self.attach(digest, kind, manifest.evidence[kind])
        return self.manifest(digest)

    def alias(self, name: str, digest: str, *, rollback: bool = False) -> None:
        """Point an alias at an adapter, or with "" at the base model. Moving ``stable`` sets ``previous`` as
        well.

        Args:
            name: the alias.
            digest: full digest, or "".
            rollback: a person asks for an adapter older than the one that the alias names; with a trust policy
                nothing else moves an alias back.

        Raises:
            AdapterError: 100 unknown digest or bad name, 107 disk, 108 where ``stable`` is to become an
                adapter that failed a gate, of its edit or of evidence attached later, and for a step back that
                nobody asked for; 102 and 112-114 as :meth:`TrustPolicy.check`.
        """
        self._standing.check_alias(name, digest, rollback)
        self._aliases.check_name(name, [manifest.name for manifest in self.manifests()])
        with self._exclusive():
            # Once more: evidence may have been attached since.
            self._standing.check_alias(name, digest, rollback)
            before = self._aliases.read()
            moved = {name: digest}
            if name == "stable" and before.get("stable", digest) != digest:
                moved["previous"] = before["stable"]
            self._aliases.write({**before, **moved})
            self.record("alias", digest, alias=name, previous_digest=before.get(name))

    def attach(self, digest: str, kind: str, document: Mapping[str, Any]) -> Manifest:
        """Put evidence beside the manifest of an adapter; a document of the same kind is replaced.

        The adapter keeps its digest and its aliases. A failed gate in the document keeps it from becoming
        ``stable`` from now on (see :mod:`vlaforget_ros.adapters.evidence`).

        Args:
            digest: full digest.
            kind: what the document is, for example ``attacks``.
            document: JSON object.

        Raises:
            AdapterError: 100 unknown digest, 103 bad kind or document, or a manifest that would grow too large,
                107 disk; the manifest is then as before.
        """
        found = evidence.checked(kind, document)
        self.path(digest)
        with self._exclusive():
            manifest = self.manifest(digest)
            changed = manifest.model_copy(update={"evidence": {**manifest.evidence, kind: found}})
            content = changed.to_json()
            if len(content) > MAX_MANIFEST_BYTES:
                raise AdapterError(
                    ErrorCode.ADAPTER_BAD_DIGEST,
                    f"evidence {kind} makes the manifest too large",
                    value=f"{len(content)} bytes",
                    limit=f"{MAX_MANIFEST_BYTES} bytes",
                    remedy="attach the figures and leave single frames and episodes in a file of their own",
                )
            replace_file(self.path(digest) / MANIFEST_FILE, content)
            failed = [gate.name for gate in evidence.gates_of(found) if gate.verdict == "failed"]
            self.record("evidence", digest, kind=kind, failed_gates=failed)
        return changed

    def add_signature(self, digest: str, signed: Signed) -> None:
        """Put a signature beside the manifest of an adapter; an earlier one by the same key is replaced.

        Raises:
            AdapterError: 100 unknown digest, 102 signatures that cannot be read or are too many, 107 disk; the
                signatures are then as before.
        """
        key = identity(signed).fingerprint
        self.path(digest)
        with self._exclusive():
            others = [old for old in self.signatures(digest) if identity(old).fingerprint != key]
            replace_file(self.path(digest) / SIGNATURE_FILE, signatures.to_json([*others, signed]))
            self.record("signed", digest, fingerprint=key)

    def remove(self, digest: str, needed: Callable[[], str] = lambda: "") -> None:
        """Take an adapter out of the store.

        Args:
            digest: full digest.
            needed: asked once more, when nobody else can write: what needs the adapter, "" where nothing does.

        Raises:
            AdapterError: 100 unknown, 107 disk, 108 while an alias points at it or something needs it.
        """
        if not is_digest(digest) or not (self._adapters / digest).is_dir():
            raise unknown(digest, self.manifests(), self.aliases())
        with self._exclusive():
            holders = [name for name, target in self._aliases.read().items() if target == digest]
            if use := ", ".join(holders) or needed():
                raise AdapterError(
                    ErrorCode.ADAPTER_NOT_PROMOTABLE,
                    f"the adapter is in use as {use}",
                    value=digest,
                    remedy="move the alias first",
                )
            doomed = self._incoming / f"removed-{digest}"
            with coded(doomed):
                self._sweep()
                self._incoming.mkdir(exist_ok=True)
                (self._adapters / digest).rename(doomed)
                shutil.rmtree(doomed)
            sync_directory(self._adapters)
            self.record("removed", digest)

    def record(self, event: str, digest: str, **details: Any) -> None:
        """Append an event to the history, durably.

        Raises:
            AdapterError: 107; earlier events stay readable.
        """
        self._history.append(event, digest, **details)

    # --- reading

    def resolve(self, reference: str) -> str:
        """Digest of an alias, name, digest or unique digest prefix of 8 or more; "" for ``base``.

        Raises:
            AdapterError: 100 unknown (with the nearest names), ambiguous, or too short a prefix.
        """
        if is_digest(reference) and (self._adapters / reference).is_dir():
            return reference
        return resolve(reference, self.manifests, self.aliases)

    def load(self, digest: str, *, base_digest: str | None = None) -> LoraWeights:
        """Weights of one adapter, every byte checked against its digest.

        Args:
            digest: full digest.
            base_digest: digest of the base model that will run it; None skips that check.

        Raises:
            AdapterError: 100 unknown, 101 made for another base, 103 changed on disk, 104-106 as in
                :meth:`add`; 102 and 112-114 as :meth:`TrustPolicy.check`, before the weights are opened.
        """
        manifest = self.manifest(digest)
        if base_digest is not None:
            check_base(manifest.base_digest, base_digest, manifest.name)
        self._standing.check_load(manifest)
        return self._weights(manifest)

    def _weights(self, manifest: Manifest) -> LoraWeights:
        digest = manifest.digest
        files = peft_format.read_files(self._adapters / digest)
        check_files(manifest, files)
        weights = peft_format.decode(files, rank_limit=self.rank_limit)
        return weights.with_digests(digest, manifest.base_digest)

    def path(self, digest: str) -> Path:
        """Directory of an adapter, readable by PEFT. Raises AdapterError 100."""
        if not is_digest(digest) or not (self._adapters / digest).is_dir():
            raise unknown(digest, self.manifests(), self.aliases())
        return self._adapters / digest

    def manifest(self, digest: str) -> Manifest:
        """Manifest of one adapter, checked against its digest. Raises AdapterError 100 or 103."""
        content = read_limited(self.path(digest) / MANIFEST_FILE, MAX_MANIFEST_BYTES)
        return parse_manifest(content, digest)

    def signatures(self, digest: str) -> tuple[Signed, ...]:
        """Signatures of an adapter, not verified. Raises AdapterError 100 or 102."""
        return signatures.read(self.path(digest))

    def check_revoked(self, digest: str) -> None:
        """Raises AdapterError 114 for an adapter that was revoked since it was loaded; see :class:`Standing`."""
        self._standing.check_revoked(digest)

    def check_rollback(self, digest: str, *, by_operator: bool) -> None:
        """Raises AdapterError 114 where a way back that no person asked for leads to a revoked adapter."""
        self._standing.check_rollback(digest, by_operator)

    def signer(self, digest: str) -> str:
        """Who signed an adapter, for people to read; "" where nobody did. See :meth:`Standing.signer`."""
        return self._standing.signer(digest)

    def manifests(self) -> list[Manifest]:
        """All adapters with an intact manifest, oldest first; a broken one is logged and left out."""
        found = []
        for digest in self.digests():
            try:
                found.append(self.manifest(digest))
            except AdapterError as error:
                _log.warning("adapter %s is not listed: %s", digest[:12], error)
        return sorted(found, key=lambda manifest: (manifest.created, manifest.digest))

    def digests(self) -> list[str]:
        """Digests of all adapters on disk, intact or not."""
        with coded(self._adapters):
            if not self._adapters.is_dir():
                return []
            return sorted(entry.name for entry in self._adapters.iterdir() if is_digest(entry.name))

    def aliases(self) -> dict[str, str]:
        """Alias -> digest ("" for the base model)."""
        return self._aliases.read()

    def history(self) -> list[dict[str, Any]]:
        """All events, oldest first: added, imported, signed, alias, evidence, removed, swap, rollback.

        Raises:
            AdapterError: 103 naming a damaged line, 107 on a read error.
        """
        return self._history.events()

    # --- parts of add

    def _add(self, files: Mapping[str, bytes], provenance: Provenance) -> Manifest:
        weights = peft_format.decode(files, rank_limit=self.rank_limit)
        core = core_of(files, weights, provenance)
        if provenance.parent_digest:
            self.path(provenance.parent_digest)
        digest = core_digest(core)
        with self._exclusive():
            if (self._adapters / digest).is_dir():
                manifest = self.manifest(digest)
                self._weights(manifest)
                return manifest
            manifest = Manifest(digest=digest, created=self._now(), core=core)
            self._move_in(digest, {**files, MANIFEST_FILE: manifest.to_json()})
            self.record("added", digest, name=core.name, method=core.method, parent_digest=core.parent_digest)
        return manifest

    def _move_in(self, digest: str, files: Mapping[str, bytes]) -> None:
        """Write beside, sync, rename: under the lock, so whatever else lies in incoming is debris."""
        with coded(self._incoming):
            self._sweep()
            self._adapters.mkdir(exist_ok=True)
            staging = self._incoming / f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
            staging.mkdir(parents=True)
        try:
            for name, content in files.items():
                write_synced(staging / name, content)
            sync_directory(staging)
            with coded(staging):
                staging.rename(self._adapters / digest)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        sync_directory(self._adapters)

    def _sweep(self) -> None:
        if self._incoming.is_dir():
            for leftover in self._incoming.iterdir():
                shutil.rmtree(leftover)

    def _exclusive(self) -> AbstractContextManager[None]:
        with coded(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
        return locked(self.root / ".lock")
