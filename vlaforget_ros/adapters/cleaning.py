"""Freeing the disk: adapters that nobody names, needs or spoke of lately, and downloads that nobody goes on with."""

from __future__ import annotations

from dataclasses import dataclass

from vlaforget_ros.adapters import partials
from vlaforget_ros.adapters.exchange import TRANSFERS
from vlaforget_ros.adapters.files import coded
from vlaforget_ros.adapters.manifest import Manifest
from vlaforget_ros.adapters.store import AdapterStore
from vlaforget_ros.errors import AdapterError, ErrorCode

KEPT_EVENTS = 50
_DIGESTS = ("digest", "previous_digest")
# An arm runs what the last of these names, and goes back to what it left, however long ago that was.
_SERVING = ("swap", "rollback")


@dataclass(frozen=True)
class Cleaned:
    """What was dropped, or would be.

    Args:
        dropped: adapters, oldest first.
        kept: digest -> why it stays: an alias, the lineage of another, or the history.
        broken: digests whose manifests cannot be read; they are left for a person to look at.
        partials: names of downloads under way that were dropped.
        freed: bytes of disk.
    """

    dropped: tuple[Manifest, ...]
    kept: dict[str, str]
    broken: tuple[str, ...]
    partials: tuple[str, ...]
    freed: int


def clean(store: AdapterStore, keep: int = KEPT_EVENTS, dry_run: bool = False) -> Cleaned:
    """Drop adapters that no alias names, that none of those kept was made from, and that the history forgot.

    Args:
        store: what is cleaned.
        keep: number of last events of the history; adapters that they mention stay. The last swap or rollback always
            counts.
        dry_run: only say what would be dropped.

    Raises:
        AdapterError: 103 where the aliases, the history or the manifest of an adapter that must stay cannot be read:
            nothing is dropped then; 107 disk.
    """
    kept = reasons_to_keep(store, keep)
    manifests = store.manifests()
    readable = {manifest.digest for manifest in manifests}
    doomed, freed = [], 0
    for manifest in manifests:
        digest = manifest.digest
        if digest in kept:
            continue
        size = _bytes_on_disk(store, digest)
        why = "" if dry_run else _removed(store, digest, keep)
        if why:
            kept[digest] = why
        else:
            doomed.append(manifest)
            freed += size
    stopped = []
    for path in partials.leftovers(store.root / TRANSFERS):
        with coded(path):
            size = path.stat().st_size
        if dry_run or partials.drop(path):
            stopped.append(path.name)
            freed += size
    broken = tuple(digest for digest in store.digests() if digest not in readable)
    return Cleaned(tuple(doomed), kept, broken, tuple(stopped), freed)


def reasons_to_keep(store: AdapterStore, keep: int) -> dict[str, str]:
    """Why each adapter that must stay does: digest -> reason.

    Raises:
        AdapterError: as :func:`clean`.
    """
    here = set(store.digests())
    reasons: dict[str, str] = {}
    for name, digest in sorted(store.aliases().items()):
        if digest in here:
            reasons.setdefault(digest, f"alias {name}")
    # A removal keeps nothing; counted, each cleaning would make the history forget sooner.
    events = [event for event in store.history() if event["event"] != "removed"]
    serving = [event for event in events if event["event"] in _SERVING][-1:]
    for event in [*serving, *(events[-keep:] if keep > 0 else [])]:
        for mentioned in (event.get(key) for key in _DIGESTS):
            if mentioned in here:
                reasons.setdefault(str(mentioned), f"history: {event['event']} of {str(event['time'])[:19]}")
    for digest in list(reasons):
        child = store.manifest(digest)
        while (parent := child.core.parent_digest) in here:
            reasons.setdefault(parent, f"{child.name} was made from it")
            child = store.manifest(parent)
    return reasons


def _removed(store: AdapterStore, digest: str, keep: int) -> str:
    """Remove an adapter; the reason where somebody has come to need it since the reasons were listed."""
    try:
        store.remove(digest, lambda: reasons_to_keep(store, keep).get(digest, ""))
    except AdapterError as error:
        if error.code != ErrorCode.ADAPTER_NOT_PROMOTABLE:
            raise
        return error.message
    return ""


def _bytes_on_disk(store: AdapterStore, digest: str) -> int:
    path = store.path(digest)
    with coded(path):
        return sum(entry.stat().st_size for entry in path.iterdir())
