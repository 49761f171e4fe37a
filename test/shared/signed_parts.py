"""Keys, signatures and trust policies for tests: made with the real library, on a clock that a test moves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from vlaforget_ros.adapters import AdapterStore, keys, signing
from vlaforget_ros.adapters.manifest import core_bytes
from vlaforget_ros.adapters.signatures import SIGNATURE_FILE, Signed, Terms
from vlaforget_ros.adapters.trust import TrustPolicy

START = datetime(2026, 6, 1, tzinfo=UTC)


class Signers:
    """People with keys under one folder, and a clock.

    Args:
        root: folder for keys and policies; the store of a test lies beside.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = START

    def key(self, name: str) -> Path:
        """A person's private key, made when it is first asked for."""
        folder = self.root / "keys" / name
        if not folder.exists():
            keys.new_key(folder)
        return folder / keys.PRIVATE_FILE

    def public(self, name: str) -> Path:
        self.key(name)
        return self.root / "keys" / name / keys.PUBLIC_FILE

    def fingerprint(self, name: str) -> str:
        return keys.fingerprint(self.public(name).read_bytes(), name)

    def sign(self, store: AdapterStore, digest: str, *names: str, expires: timedelta | None = None) -> Signed:
        """Sign an adapter as some people; the last signature is given back."""
        terms = Terms(signed=self.now, expires=self.now + expires if expires else None)
        for name in names:
            signed = signing.sign(core_bytes(store.manifest(digest).core), terms, self.key(name))
            store.add_signature(digest, signed)
        return signed

    def policy(self, *names: str, **more: Any) -> TrustPolicy:
        """A policy that knows some people; ``more`` are further fields of its file."""
        return TrustPolicy.load(self.policy_file(*names, **more), now=lambda: self.now)

    def policy_file(self, *names: str, **more: Any) -> Path:
        for name in names:
            self.key(name)
        known = {name: {"public_key": f"keys/{name}/{keys.PUBLIC_FILE}"} for name in names}
        path = self.root / "trust.yaml"
        path.write_text(yaml.safe_dump({"signers": known, **more}), encoding="utf-8")
        return path

    def store(self, store: AdapterStore, *names: str, **more: Any) -> AdapterStore:
        """The same store under a policy."""
        return AdapterStore(
            store.root, rank_limit=store.rank_limit, now=lambda: self.now, trust=self.policy(*names, **more)
        )


def signature_file(store: AdapterStore, digest: str) -> Path:
    return store.path(digest) / SIGNATURE_FILE


def edit(path: Path, change: Any) -> None:
    """Change a JSON file in place: ``change`` gets its content and may give back another one."""
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(change(content) or content), encoding="utf-8")


def snapshot(root: Path) -> Mapping[str, bytes]:
    """Every file of a store but its lock."""
    files: Sequence[Path] = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in files if path.name != ".lock"}
