"""Keys that adapters are signed with: files outside every store, private ones readable by their owner alone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlaforget_ros.adapters.files import coded
from vlaforget_ros.errors import AdapterError, ErrorCode

PRIVATE_FILE = "signing.key"
PUBLIC_FILE = "signing.pub"
# Files that only a store has beside its folder of adapters.
_MARKS = ("aliases.json", "history.jsonl", "incoming", ".lock")


def new_key(directory: Path) -> str:
    """Make a key pair (EC P-256): ``signing.key`` with mode 0600 and ``signing.pub``.

    Args:
        directory: where to; made where it is missing.

    Returns:
        fingerprint of the public key.

    Raises:
        AdapterError: 112 inside a store or where one of the files exists, 107 where the disk refuses.
    """
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as error:
        raise missing(error) from error
    refuse_in_store(directory)
    private, public = directory / PRIVATE_FILE, directory / PUBLIC_FILE
    for path in (private, public):
        if path.exists() or path.is_symlink():
            raise unusable("a key is there already", path, "give another folder: keys are never overwritten")
    key = ec.generate_private_key(ec.SECP256R1())
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with coded(directory):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write_new(private, secret, 0o600)
    _write_new(public, public_pem(key.public_key()), 0o644)
    return fingerprint(public.read_bytes(), public)


def check_private(path: Path) -> None:
    """Check a private key's place and mode before it is read.

    Raises:
        AdapterError: 112 missing, in a store, or readable by others.
    """
    if not path.is_file():
        raise unusable("no such key", path, "make one: vlaforget adapters keys new DIR")
    refuse_in_store(path.resolve().parent)
    with coded(path):
        mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise unusable(f"a private key that others may read (mode {mode:o})", path, f"chmod 600 {path}")


def refuse_in_store(directory: Path) -> None:
    """Raises AdapterError 112 for a folder in a store: stores are copied to robots and into bundles."""
    for folder in _up(directory.resolve()):
        if (folder / "adapters").is_dir() and any((folder / mark).exists() for mark in _MARKS):
            raise unusable("a private key inside a store", directory, f"give a folder outside {folder}")


def fingerprint(pem: bytes, origin: object) -> str:
    """SHA-256 of a public key, as signatures name it.

    Args:
        pem: content of the key's file.
        origin: where it came from, for the message.

    Raises:
        AdapterError: 112 for anything but a public key on P-256, P-384 or P-521.
    """
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as error:
        raise missing(error) from error
    remedy = "give a file of `vlaforget adapters keys new`, or of openssl ec -pubout"
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise unusable("not a public key", origin, remedy) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise unusable(f"not a key on one of {', '.join(_CURVES)}", origin, remedy)
    return hashlib.sha256(public_pem(key)).hexdigest()


def public_pem(key: Any) -> bytes:
    """A public key in the one form that fingerprints are of."""
    from cryptography.hazmat.primitives import serialization

    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return bytes(key.public_bytes(serialization.Encoding.PEM, form))


def unusable(what: str, value: object, remedy: str) -> AdapterError:
    """The error for a key or a certificate that cannot be used (112)."""
    return AdapterError(ErrorCode.ADAPTER_UNTRUSTED, what, value=str(value), remedy=remedy)


def missing(error: ImportError) -> AdapterError:
    """The error where the signature library is not there (112)."""
    return AdapterError(
        ErrorCode.ADAPTER_UNTRUSTED,
        "signatures cannot be made or checked here: model-signing is not installed whole",
        value=str(error),
        remedy="install what requirements/core.txt names; a rollback to a resident adapter works without",
    )


_CURVES = ("secp256r1", "secp384r1", "secp521r1")


def _up(folder: Path) -> Iterator[Path]:
    yield folder
    yield from folder.parents


def _write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a file that must not exist, with its mode from the first moment on."""
    with coded(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
