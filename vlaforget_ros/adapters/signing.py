"""Making and checking one signature with OpenSSF model-signing: local keys and certificates, no network.

What is signed is a folder of two small files, ``core.json`` and ``terms.json`` (docs/adr/adapter-signing.md). The
SHA-256 of the first is the adapter's digest, and it lists the SHA-256 of the weights and of their configuration.
The library is imported when it is needed: that takes a while, and serving without a trust policy does without it.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from vlaforget_ros.adapters.files import coded
from vlaforget_ros.adapters.keys import check_private, missing, public_pem, unusable
from vlaforget_ros.adapters.manifest import sha256
from vlaforget_ros.adapters.signatures import CORE_NAME, TERMS_NAME, Signed, Terms, bad_signature
from vlaforget_ros.errors import AdapterError

_PREDICATE = "https://model_signing/signature/v1.0"


@dataclass(frozen=True)
class Identity:
    """Who a signature says made it; nothing of it is verified.

    Args:
        fingerprint: SHA-256 of the public key.
        common_name: of the certificate, "" for a bare key.
        valid: from and to when the certificate is valid; None for a bare key.
    """

    fingerprint: str
    common_name: str = ""
    valid: tuple[datetime, datetime] | None = None


@dataclass(frozen=True)
class Anchor:
    """What a signature is verified against.

    Args:
        pem: a public key, or root certificates.
        roots: whether it is the latter.
    """

    pem: bytes
    roots: bool = False


def sign(
    core: bytes, terms: Terms, key: Path, *, certificate: Path | None = None, chain: Sequence[Path] = ()
) -> Signed:
    """Sign an adapter.

    Args:
        core: canonical JSON of its core, see :func:`vlaforget_ros.adapters.manifest.core_bytes`.
        terms: since when and until when the signature counts.
        key: file of the private key (EC, PEM, not encrypted).
        certificate: file of the certificate of that key; None signs with the bare key.
        chain: files of certificates between it and a root.

    Raises:
        AdapterError: 112 for a key or certificate that cannot be used, 107 where the disk refuses.
    """
    check_private(key)
    library = _library()
    config = library.signing.Config().set_hashing_config(_hashing(library))
    try:
        if certificate is None:
            config.use_elliptic_key_signer(private_key=key)
        else:
            # The library reads no empty chain; the certificate itself adds nothing to it.
            config.use_certificate_signer(
                private_key=key, signing_certificate=certificate, certificate_chain=chain or [certificate]
            )
    except Exception as error:
        # Of several kinds, by what the file is instead; the text never holds any of the key.
        raise unusable(
            f"not a usable private key or certificate ({type(error).__name__}: {error})",
            key,
            "give a private EC key (PEM, not encrypted), with the certificate that was made for it",
        ) from error
    with _scratch() as place:
        folder = _folder(place, core, terms)
        config.sign(folder, place / "bundle.json")
        bundle = json.loads((place / "bundle.json").read_bytes())
    return Signed(terms=terms, bundle=bundle)


def verify(signed: Signed, core: bytes, anchor: Anchor) -> None:
    """Check that a signature was made by the owner of a key, for this adapter and these terms.

    Whether it has expired is not asked here.

    Args:
        signed: the signature.
        core: canonical JSON of the adapter's core as the store has it.
        anchor: the key, or the roots of the certificate.

    Raises:
        AdapterError: 102 where it was not, 112 where the library is missing, 107 where the disk refuses.
    """
    _check_subject(signed, core)
    library = _library()
    with _scratch() as place:
        folder = _folder(place, core, signed.terms)
        (place / "anchor.pem").write_bytes(anchor.pem)
        (place / "bundle.json").write_text(json.dumps(signed.bundle), encoding="utf-8")
        config = _verifier(library, place / "anchor.pem", anchor.roots)
        try:
            config.verify(folder, place / "bundle.json")
        except OSError:
            raise
        except Exception as error:
            # The library meets hostile bytes with errors of many kinds; none of them is a valid signature.
            why = str(error) or type(error).__name__
            raise bad_signature("the signature does not hold", why[:200]) from error


def identity(signed: Signed) -> Identity:
    """Who a signature says made it.

    Raises:
        AdapterError: 102 where it says nothing that can be read.
    """
    try:
        material = signed.bundle["verificationMaterial"]
        if "publicKey" in material:
            hint = material["publicKey"]["hint"]
            if isinstance(hint, str) and len(hint) == 64:
                return Identity(hint)
            raise bad_signature("the signature does not name its key", str(hint)[:80])
        certificates = material["x509CertificateChain"]["certificates"]
        return _certified(base64.b64decode(certificates[0]["rawBytes"], validate=True))
    except AdapterError:
        raise
    except ImportError as error:
        raise missing(error) from error
    except Exception as error:
        # A stranger's certificate fails in more ways than those that the library has errors of its own for.
        raise bad_signature(
            "the signature names neither a key nor a certificate", repr(error)[:80]
        ) from error


def _certified(der: bytes) -> Identity:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    certificate = x509.load_der_x509_certificate(der)
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return Identity(
        sha256(public_pem(certificate.public_key())),
        str(names[0].value) if len(names) == 1 else "",
        (certificate.not_valid_before_utc, certificate.not_valid_after_utc),
    )


def _check_subject(signed: Signed, core: bytes) -> None:
    """Say which adapter a signature is for, before the library finds that the hashes differ. It also keeps out what the
    library understands beyond our files: other resources, other methods, files that a signer chose to ignore."""
    expected = {CORE_NAME: sha256(core), TERMS_NAME: sha256(signed.terms.to_bytes())}
    try:
        payload = json.loads(base64.b64decode(signed.bundle["dsseEnvelope"]["payload"], validate=True))
        predicate = payload["predicate"]
        found = {resource["name"]: resource["digest"] for resource in predicate["resources"]}
        plain = payload["predicateType"] == _PREDICATE and not predicate["serialization"].get("ignore_paths")
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, binascii.Error) as error:
        raise bad_signature("a signature that cannot be read", repr(error)[:80]) from error
    if found.get(CORE_NAME) != expected[CORE_NAME]:
        raise bad_signature(
            "the signature is for another adapter, or the adapter's manifest was changed",
            f"signed {str(found.get(CORE_NAME))[:12]}",
            expected[CORE_NAME][:12],
        )
    if found != expected or not plain:
        raise bad_signature("the terms of the signature were changed", signed.terms.to_bytes().decode())


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder of our own for some small files, in memory where the system has that: a full disk stops no swap."""
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())
    with coded(parent), tempfile.TemporaryDirectory(prefix="vlaforget-", dir=parent) as name:
        yield Path(name)


def _folder(place: Path, core: bytes, terms: Terms) -> Path:
    folder = place / "adapter"
    folder.mkdir()
    (folder / CORE_NAME).write_bytes(core)
    (folder / TERMS_NAME).write_bytes(terms.to_bytes())
    return folder


@dataclass(frozen=True)
class _Library:
    hashing: Any
    signing: Any
    verifying: Any


def _library() -> _Library:
    try:
        from model_signing import hashing, signing, verifying
    except ImportError as error:
        raise missing(error) from error
    return _Library(hashing, signing, verifying)


def _verifier(library: _Library, pem: Path, roots: bool) -> Any:
    config = library.verifying.Config().set_hashing_config(_hashing(library))
    try:
        if roots:
            return config.use_certificate_verifier(certificate_chain=[pem])
        return config.use_elliptic_key_verifier(public_key=pem)
    except ValueError as error:
        what = "root certificates" if roots else "public key"
        raise unusable(f"the {what} of a signer cannot be used", error, "correct the trust policy") from error


def _hashing(library: _Library) -> Any:
    config = library.hashing.Config().set_ignored_paths(paths=(), ignore_git_paths=False)
    return config.use_file_serialization(hashing_algorithm="sha256", allow_symlinks=False)
