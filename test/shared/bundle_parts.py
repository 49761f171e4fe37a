"""Bundles for tests: good ones, and ones that somebody made by hand."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vlaforget_ros.adapters import AdapterStore
from vlaforget_ros.adapters.manifest import Core, core_digest, sha256
from vlaforget_ros.errors import VlaForgetError

MANIFEST, CONFIG, WEIGHTS = "manifest.json", "adapter_config.json", "adapter_model.safetensors"


def members_of(store: AdapterStore, digest: str) -> dict[str, bytes]:
    """The files of a stored adapter, the manifest first."""
    return {name: (store.path(digest) / name).read_bytes() for name in (MANIFEST, CONFIG, WEIGHTS)}


def archive(
    entries: Iterable[tuple[tarfile.TarInfo | str, bytes]], form: int = tarfile.USTAR_FORMAT, end: bool = True
) -> bytes:
    """A tar of entries in their order; a name stands for a plain file."""
    out = io.BytesIO()
    for header, content in entries:
        info = tarfile.TarInfo(header) if isinstance(header, str) else header
        if isinstance(header, str):
            info.size = len(content)
        out.write(info.tobuf(form) + content + bytes(-len(content) % 512))
    return out.getvalue() + bytes(1024 if end else 0)


def entry(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    """A header with fields of its own choosing."""
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def rehashed(members: dict[str, bytes], **core: Any) -> dict[str, bytes]:
    """The same members under a manifest that lists them rightly: a forger who knows how digests are made."""
    said = json.loads(members[MANIFEST])
    files = {
        name: {"sha256": sha256(content), "bytes": len(content)}
        for name, content in members.items()
        if name != MANIFEST
    }
    said["core"] = {**said["core"], "files": files, **core}
    said["digest"] = core_digest(Core.model_validate(said["core"]))
    return {**members, MANIFEST: json.dumps(said).encode()}


def code_of_refusal(call: Any) -> int:
    """Number of the error that a call raises, 0 where it raises none."""
    try:
        call()
    except VlaForgetError as error:
        return int(error.code)
    return 0


def state(root: Path) -> dict[str, bytes]:
    """Every file of a store by its path, downloads under way and the lock left out."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }
