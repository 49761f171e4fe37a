"""Which adapter was made on top of which: the chains of edits in a store, from the base model to each tip."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlaforget_ros.adapters.manifest import Manifest
from vlaforget_ros.adapters.store import AdapterStore


@dataclass(frozen=True)
class Link:
    """One adapter of a chain.

    Args:
        manifest: what it is; its rank and layers are those of the whole chain below it, folded into one adapter.
        depth: adapters of the chain between it and the base model.
        aliases: names that point at it now.
        missing_parent: digest of the adapter it was made from, where that is no longer in the store.
    """

    manifest: Manifest
    depth: int
    aliases: tuple[str, ...]
    missing_parent: str = ""

    def row(self) -> dict[str, Any]:
        """As JSON."""
        core = self.manifest.core
        return {
            "digest": self.manifest.digest,
            "name": core.name,
            "depth": self.depth,
            "method": core.method,
            "reason": core.reason,
            "requester": core.requester,
            "created": self.manifest.created.isoformat(),
            "gates_passed": self.manifest.gates_passed,
            "gates": self.manifest.gates,
            "rank": core.rank,
            "components": list(core.components),
            "layers": list(core.layers),
            "modules": len(core.modules),
            "aliases": list(self.aliases),
            "base_digest": core.base_digest,
            "parent_digest": core.parent_digest,
            "missing_parent": self.missing_parent,
        }


def chain(store: AdapterStore, digest: str) -> list[Link]:
    """An adapter and all that it was made from, the first edit first; nothing for the base model ("").

    A parent that was removed from the store ends the chain there.

    Raises:
        AdapterError: 100 for an adapter that is not in the store, 103 for a damaged manifest.
    """
    if not digest:
        return []
    known = {manifest.digest: manifest for manifest in store.manifests()}
    found = [store.manifest(digest)]
    while (parent := found[-1].core.parent_digest) in known:
        found.append(known[parent])
    aliases = store.aliases()
    return [_link(manifest, depth, aliases, known) for depth, manifest in enumerate(reversed(found))]


def chains(store: AdapterStore) -> list[Link]:
    """All adapters: each before those that were made from it, the older branch first."""
    manifests, aliases = store.manifests(), store.aliases()
    known = {manifest.digest: manifest for manifest in manifests}
    children: dict[str, list[Manifest]] = {}
    for manifest in manifests:
        parent = manifest.core.parent_digest
        children.setdefault(parent if parent in known else "", []).append(manifest)

    def below(parent: str, depth: int) -> Iterator[Link]:
        for manifest in children.get(parent, []):
            yield _link(manifest, depth, aliases, known)
            yield from below(manifest.digest, depth + 1)

    return list(below("", 0))


def events_of(events: Sequence[Mapping[str, Any]], digests: Sequence[str]) -> list[dict[str, Any]]:
    """The events in which one of some adapters ("" for the base model) came or went, in their order."""
    wanted = set(digests)
    return [dict(event) for event in events if wanted & {event["digest"], event.get("previous_digest")}]


def _link(manifest: Manifest, depth: int, aliases: Mapping[str, str], known: Mapping[str, Manifest]) -> Link:
    parent = manifest.core.parent_digest
    names = sorted(name for name, digest in aliases.items() if digest == manifest.digest)
    return Link(manifest, depth, tuple(names), parent if parent and parent not in known else "")
