"""Adapters from one store to another: export writes one bundle, import takes one in after checking all of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from vlaforget_ros.adapters import bundle, transport
from vlaforget_ros.adapters.bundle import bad_bundle
from vlaforget_ros.adapters.files import read_limited
from vlaforget_ros.adapters.manifest import (
    MANIFEST_FILE,
    MAX_MANIFEST_BYTES,
    SIGNATURE_FILE,
    Manifest,
    check_files,
    parse_manifest,
)
from vlaforget_ros.adapters.names import check_base
from vlaforget_ros.adapters.partials import Partial, held
from vlaforget_ros.adapters.peft_format import ADAPTER_FILES, CONFIG_FILE, decode, parse_config, read_files
from vlaforget_ros.adapters.store import AdapterStore
from vlaforget_ros.errors import AdapterError, ErrorCode

_log = logging.getLogger(__name__)
TRANSFERS = "transfers"


@dataclass(frozen=True)
class Exported:
    """A bundle that was written.

    Args:
        manifest: of the adapter in it.
        destination: where it is.
        bytes: its size.
        signed: whether a signature is in it.
    """

    manifest: Manifest
    destination: str
    bytes: int
    signed: bool


@dataclass(frozen=True)
class Imported:
    """An adapter that was taken in.

    Args:
        manifest: as it is in the store now.
        source: where it came from.
        bytes: size of the bundle.
        new: False where the store had the adapter before.
        signed: whether a signature was in the bundle.
        evidence_kept: kinds of evidence of which this store has a document of its own, and keeps it.
        missing_parent: digest of the adapter it was made from where that is not here; it serves without.
    """

    manifest: Manifest
    source: str
    bytes: int
    new: bool
    signed: bool
    evidence_kept: tuple[str, ...]
    missing_parent: str


def export_adapter(
    store: AdapterStore, digest: str, destination: str, progress: transport.Progress | None = None
) -> Exported:
    """Write an adapter, its evidence and its signature, if it has one, as one bundle.

    Args:
        store: where it is; nothing is written there.
        digest: full digest.
        destination: path or URL of the file, or of a folder (one that exists, or that ends with /).
        progress: called with (bytes written, all bytes).

    Raises:
        AdapterError: 100 unknown digest, 103-106 where the adapter itself is damaged, 107 where the destination fails.
    """
    location = transport.locate(destination)
    content = read_limited(store.path(digest) / MANIFEST_FILE, MAX_MANIFEST_BYTES)
    manifest = parse_manifest(content, digest)
    files = read_files(store.path(digest))
    check_files(manifest, files)
    decode(files, rank_limit=store.rank_limit)
    members = {**files, MANIFEST_FILE: content}
    signature = store.path(digest) / SIGNATURE_FILE
    if signature.exists():
        members[SIGNATURE_FILE] = read_limited(signature, bundle.MAX_SIGNATURE_BYTES)
    location = transport.inside(location, f"{manifest.name}-{digest[:12]}.tar")
    size = sum(len(piece) for piece in bundle.chunks(members))
    transport.upload(location, bundle.chunks(members), size, progress)
    return Exported(manifest, location.public, size, SIGNATURE_FILE in members)


def import_adapter(store: AdapterStore, source: str, progress: transport.Progress | None = None) -> Imported:
    """Take the adapter of a bundle into the store, under the digest that it had where it was exported.

    No alias moves. What a bundle says as evidence is added where this store has none of that kind.

    Args:
        store: where it goes.
        source: path or URL of a bundle.
        progress: called with (bytes read, all bytes) where they come from elsewhere.

    Raises:
        AdapterError: 100 no such bundle, 101 made for another base than it says, 103 manifest or files were changed,
            104 not plain LoRA, 105 non-finite, 106 over the rank limit, 107 source or disk fail, 111 no bundle. The
            store is then as before.
    """
    location = transport.locate(source)
    if location.is_local:
        return _take_in(store, Path(location.path), location.public)
    limit = bundle.MAX_BUNDLE_BYTES
    found = transport.look(location, limit)
    with held(store.root / TRANSFERS, found.key) as partial:
        resumed = partial.length > 0
        transport.download(found, partial, limit, progress)
        try:
            return _verified(store, partial, location.public)
        except AdapterError as error:
            if not resumed or error.code == ErrorCode.ADAPTER_DISK:
                raise
            # What lay here from before may be what is wrong (a power cut, another file): once more, all of it.
            _log.warning("the resumed download is not whole, it begins anew: %s", error)
        transport.download(found, partial, limit, progress)
        return _verified(store, partial, location.public)


def _verified(store: AdapterStore, partial: Partial, source: str) -> Imported:
    """Take in what arrived; a bundle that is refused is thrown away, unless it was this disk that failed."""
    try:
        return _take_in(store, partial.path, source)
    except AdapterError as error:
        if error.code != ErrorCode.ADAPTER_DISK:
            partial.discard()
        raise


def _take_in(store: AdapterStore, path: Path, source: str) -> Imported:
    members = bundle.read(path)
    content = members.pop(MANIFEST_FILE)
    manifest = parse_manifest(content)
    signature = members.pop(SIGNATURE_FILE, None)
    if set(manifest.core.files) != set(ADAPTER_FILES):
        listed = ", ".join(sorted(manifest.core.files))
        raise bad_bundle("its manifest lists other files", value=listed[:200], limit=", ".join(ADAPTER_FILES))
    check_files(manifest, members)
    if named := parse_config(members[CONFIG_FILE]).base_digest:
        check_base(manifest.base_digest, named, manifest.name)
    before = manifest.digest in store.digests()
    found = store.adopt(members, content, signature=signature, source=source)
    kept = [kind for kind, said in manifest.evidence.items() if found.evidence.get(kind) != said]
    parent = manifest.core.parent_digest
    missing = parent if parent and parent not in store.digests() else ""
    size = path.stat().st_size
    return Imported(found, source, size, not before, signature is not None, tuple(sorted(kept)), missing)
