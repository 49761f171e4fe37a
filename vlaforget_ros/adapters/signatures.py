"""The signatures of an adapter as values and as a file: ``signature.json`` beside its manifest, outside its digest.

::

    {"format": 1, "signatures": [{"terms": {"signed": ..., "expires": ...}, "bundle": {...}}]}

A bundle is one of OpenSSF model-signing over two small files: ``core.json``, the bytes whose SHA-256 is the adapter's
digest, and ``terms.json``. Nothing here decides whether a signature holds: that is :mod:`.signing`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from vlaforget_ros.adapters.files import read_limited
from vlaforget_ros.adapters.manifest import SIGNATURE_FILE
from vlaforget_ros.errors import AdapterError, ErrorCode

CORE_NAME = "core.json"
TERMS_NAME = "terms.json"
MAX_SIGNATURE_BYTES = 1024 * 1024
MAX_SIGNATURES = 16


class Terms(BaseModel):
    """What a signer says beside "this adapter": signed together with it.

    Args:
        signed: when, by the signer's clock.
        expires: from when on the signature no longer counts; None: never.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    signed: AwareDatetime
    expires: AwareDatetime | None = None

    def to_bytes(self) -> bytes:
        """Canonical JSON: the content of ``terms.json``."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()


class Signed(BaseModel):
    """One signature.

    Args:
        terms: what it says.
        bundle: of the library, as JSON.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    terms: Terms
    bundle: dict[str, Any]


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = Field(default=1, ge=1, le=1)
    signatures: tuple[Signed, ...] = Field(max_length=MAX_SIGNATURES)


def read(directory: Path) -> tuple[Signed, ...]:
    """The signatures of an adapter, none where it has no such file. None of them is verified yet.

    Args:
        directory: of the adapter in the store.

    Raises:
        AdapterError: 102 for a file that is too large, a link or unreadable as signatures, 107 on a read error.
    """
    path = directory / SIGNATURE_FILE
    if not path.exists() and not path.is_symlink():
        return ()
    try:
        return _File.model_validate_json(read_limited(path, MAX_SIGNATURE_BYTES)).signatures
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise bad_signature(f"{SIGNATURE_FILE}: {where} {first['msg']}", str(path)) from error
    except AdapterError as error:
        if error.code != ErrorCode.ADAPTER_BAD_SHAPE:
            raise
        raise bad_signature(f"{SIGNATURE_FILE}: {error.message}", error.value, error.limit) from error


def to_json(signatures: Sequence[Signed]) -> bytes:
    """The content of the file.

    Raises:
        AdapterError: 102 for more signatures, or more bytes, than :func:`read` accepts.
    """
    plain = {"format": 1, "signatures": [signed.model_dump(mode="json") for signed in signatures]}
    content = (json.dumps(plain, indent=2, sort_keys=True) + "\n").encode()
    if len(signatures) > MAX_SIGNATURES or len(content) > MAX_SIGNATURE_BYTES:
        raise bad_signature(
            "too many signatures",
            f"{len(signatures)} signatures, {len(content)} bytes",
            f"{MAX_SIGNATURES} signatures, {MAX_SIGNATURE_BYTES} bytes",
        )
    return content


def bad_signature(what: str, value: object, limit: object = None) -> AdapterError:
    """The error for a signature that does not hold (102)."""
    return AdapterError(
        ErrorCode.ADAPTER_BAD_SIGNATURE,
        what,
        value=value,
        limit=limit,
        remedy="do not serve it: get the adapter and its signature again from their source",
    )


def whole_seconds(time: datetime) -> datetime:
    """A time as signatures hold it."""
    return time.replace(microsecond=0)
