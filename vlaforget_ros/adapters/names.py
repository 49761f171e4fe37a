"""How adapters are called: digests, prefixes, names, and aliases that move."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from vlaforget_ros.adapters.files import read_limited, replace_file
from vlaforget_ros.adapters.manifest import Manifest
from vlaforget_ros.errors import AdapterError, ErrorCode, did_you_mean

BASE = "base"
MIN_PREFIX = 8
_ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_HEX = re.compile(r"[0-9a-f]+")
_MAX_BYTES = 1024 * 1024


def is_digest(text: str) -> bool:
    """Whether a text is a full digest."""
    return len(text) == 64 and _HEX.fullmatch(text) is not None


def resolve(
    reference: str,
    manifests: Callable[[], Sequence[Manifest]],
    aliases: Callable[[], Mapping[str, str]],
) -> str:
    """Digest that a reference means; "" for the base model.

    Order: ``base``, alias, digest, name, digest prefix. A name that two adapters share is ambiguous: the same
        name
    never silently means new weights.

    Raises:
        AdapterError: 100 unknown, ambiguous or too short.
    """
    if reference in ("", BASE):
        return ""
    moving = aliases()
    if reference in moving:
        return moving[reference]
    known = manifests()
    named = [manifest.digest for manifest in known if manifest.name == reference]
    prefixed: list[str] = []
    if _HEX.fullmatch(reference):
        prefixed = [manifest.digest for manifest in known if manifest.digest.startswith(reference)]
        if prefixed and len(reference) < MIN_PREFIX:
            raise AdapterError(
                ErrorCode.ADAPTER_UNKNOWN,
                "the digest prefix is too short",
                value=reference,
                limit=f"{MIN_PREFIX} or more characters",
                remedy=f"did you mean {' or '.join(digest[:12] for digest in prefixed[:3])}?",
            )
    found = named or prefixed
    if len(found) > 1:
        raise AdapterError(
            ErrorCode.ADAPTER_UNKNOWN,
            f"{len(found)} adapters are meant",
            value=reference,
            limit="one",
            remedy=f"give a digest: {', '.join(digest[:12] for digest in found)}",
        )
    if not found:
        raise unknown(reference, known, moving)
    return found[0]


def unknown(reference: str, manifests: Iterable[Manifest], aliases: Iterable[str]) -> AdapterError:
    """The error for a reference that means nothing here, with the nearest names (100)."""
    known = list(manifests)
    names = [BASE, *aliases, *(manifest.name for manifest in known)]
    if _HEX.fullmatch(reference):
        names += [manifest.digest[:12] for manifest in known]
        reference = reference if len(reference) <= 12 else f"{reference[:12]}..."
    return AdapterError(
        ErrorCode.ADAPTER_UNKNOWN,
        "no such adapter in the store",
        value=reference,
        remedy=did_you_mean(reference, set(names)),
    )


def check_base(found: str, expected: str, name: str) -> None:
    """Raises AdapterError 101 unless an adapter's base digest is the expected one."""
    if found != expected:
        raise AdapterError(
            ErrorCode.ADAPTER_BASE_MISMATCH,
            f"adapter {name} was made for another base model",
            value=f"base {found[:12] or 'unknown'}",
            limit=f"base {expected[:12]}",
            remedy="edit this base model, or serve the one the adapter was made for",
        )


class Aliases:
    """The file of aliases: one JSON object, replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, str]:
        """Alias -> digest. Raises AdapterError 103 where the file is damaged."""
        if not self._path.exists():
            return {}
        try:
            content = json.loads(read_limited(self._path, _MAX_BYTES))
        except ValueError as error:
            raise self._damaged(str(error)) from error
        if not isinstance(content, dict) or not all(
            isinstance(digest, str) and (digest == "" or is_digest(digest)) for digest in content.values()
        ):
            raise self._damaged("not an object of digests")
        return content

    def write(self, aliases: Mapping[str, str]) -> None:
        """Replace the file. Raises AdapterError 107; the old content then stays."""
        replace_file(self._path, (json.dumps(dict(aliases), indent=2, sort_keys=True) + "\n").encode())

    def check_name(self, name: str, adapter_names: Iterable[str]) -> None:
        """Raises AdapterError 100 for a name that cannot be an alias."""
        taken = name in set(adapter_names)
        looks_like_digest = len(name) >= MIN_PREFIX and _HEX.fullmatch(name) is not None
        if name == BASE or taken or looks_like_digest or not _ALIAS.fullmatch(name):
            raise AdapterError(
                ErrorCode.ADAPTER_UNKNOWN,
                "not a name for an alias",
                value=name,
                limit="letters, digits, _ and -; neither base, nor a digest, nor an adapter's name",
                remedy="the usual aliases are stable, candidate and previous",
            )

    def _damaged(self, why: str) -> AdapterError:
        return AdapterError(
            ErrorCode.ADAPTER_BAD_DIGEST,
            f"the file of aliases is damaged ({why})",
            value=str(self._path),
            remedy="write it again from the alias events in history.jsonl; digests still resolve",
        )
