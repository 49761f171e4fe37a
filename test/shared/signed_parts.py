"""Keys, signatures and trust policies for tests: made with the real library, on a clock that a test moves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

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
        known: dict[str, Any] = {n: {"public_key": f"keys/{n}/{keys.PUBLIC_FILE}"} for n in names}
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


class Office:
    """A certificate authority of one's own, with certificates for people below its root.

    Args:
        root: folder for its files.
        name: of the authority.
    """

    def __init__(self, root: Path, name: str = "root") -> None:
        self.folder = root / name
        self.folder.mkdir()
        self.root = self.folder / "root.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        certificate = self._certificate(
            self._name, self._key.public_key(), START - timedelta(days=1), timedelta(days=3650), True
        )
        self.root.write_bytes(certificate)

    def certify(self, name: str, valid: timedelta) -> tuple[Path, Path]:
        """A key and its certificate, valid from START on.

        Returns:
            files of the private key and of the certificate.
        """
        key = self.folder / name / keys.PRIVATE_FILE
        keys.new_key(key.parent)
        public = serialization.load_pem_public_key((key.parent / keys.PUBLIC_FILE).read_bytes())
        (key.parent / "certificate.pem").write_bytes(
            self._certificate(_named(name), public, START, valid, False)
        )
        return key, key.parent / "certificate.pem"

    def _certificate(
        self, name: Any, public: Any, start: datetime, valid: timedelta, authority: bool
    ) -> bytes:
        usage = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment"), False)
        usage |= dict.fromkeys(("key_agreement", "encipher_only", "decipher_only", "crl_sign"), False)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + valid)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(digital_signature=not authority, key_cert_sign=authority, **usage),
                critical=True,
            )
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)


def _named(name: str) -> Any:
    return x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name)])
