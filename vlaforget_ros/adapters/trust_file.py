"""The file of a trust policy: YAML, checked, with remedies that name the nearest known word. What it decides is in
:mod:`.trust`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vlaforget_ros.errors import AdapterError, ErrorCode, did_you_mean

_SHA256 = r"^[0-9a-f]{64}$"
_ALIAS = r"^[a-z][a-z0-9_-]{0,63}$"
_MAX_BYTES = 1024 * 1024


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Signer(_Strict):
    """Whose signatures count under one name: the owner of a key, or of a certificate below a root.

    Args:
        public_key: file of an EC public key (PEM).
        certificate_roots: files of root certificates (PEM) instead of a key.
        common_name: of the certificate; a root may have certified others, too.
    """

    public_key: Path | None = None
    certificate_roots: tuple[Path, ...] = ()
    common_name: str = ""

    @model_validator(mode="after")
    def _one_of_both(self) -> Signer:
        if (self.public_key is None) == (not self.certificate_roots):
            raise ValueError("give either public_key or certificate_roots")
        if bool(self.certificate_roots) != bool(self.common_name):
            raise ValueError("certificate_roots and common_name belong together")
        return self


class RevokedAdapter(_Strict):
    """An adapter that must not be served again, whoever signed it."""

    digest: str = Field(pattern=_SHA256)
    reason: str = Field(min_length=1)


class RevokedKey(_Strict):
    """A key whose signatures no longer count, however old they are."""

    fingerprint: str = Field(pattern=_SHA256)
    reason: str = Field(min_length=1)


class TrustSettings(_Strict):
    """A trust policy as its file says it.

    Args:
        signers: name -> whose signatures it stands for.
        required: alias -> names of signers that must all have signed what it names.
        serve: ``signed``: only adapters that one of the signers signed are loaded; ``any``: unsigned ones as well.
        revoked_adapters: refused in any case.
        revoked_keys: their signatures are as good as none.
    """

    signers: dict[str, Signer] = Field(default_factory=dict)
    required: dict[Annotated[str, Field(pattern=_ALIAS)], tuple[str, ...]] = Field(default_factory=dict)
    serve: Literal["signed", "any"] = "signed"
    revoked_adapters: tuple[RevokedAdapter, ...] = ()
    revoked_keys: tuple[RevokedKey, ...] = ()


def read_trust(path: Path) -> TrustSettings:
    """Read a trust policy; relative paths of keys start at its folder.

    Raises:
        AdapterError: 112 naming the field, with the nearest known word for a misspelt one.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise unusable(f"the trust policy cannot be read: {error.strerror}", path) from error
    if len(text) > _MAX_BYTES:
        raise unusable("the trust policy is too large", path)
    try:
        document = yaml.safe_load(text)
        settings = TrustSettings.model_validate({} if document is None else document)
    except yaml.YAMLError as error:
        raise unusable(f"{path} is not YAML: {error}", path) from error
    except ValidationError as error:
        raise _invalid(error, path) from error
    _check_names(settings, path)
    return settings.model_copy(
        update={"signers": {name: _at(path.parent, signer) for name, signer in settings.signers.items()}}
    )


def unusable(what: str, value: object, remedy: str = "correct the trust policy") -> AdapterError:
    """The error for a trust policy that cannot be used (112)."""
    return AdapterError(ErrorCode.ADAPTER_UNTRUSTED, what, value=str(value)[:200], remedy=remedy)


def _at(folder: Path, signer: Signer) -> Signer:
    return signer.model_copy(
        update={
            "public_key": None if signer.public_key is None else folder / signer.public_key,
            "certificate_roots": tuple(folder / root for root in signer.certificate_roots),
        }
    )


def _check_names(settings: TrustSettings, path: Path) -> None:
    for alias, names in settings.required.items():
        if not names:
            raise unusable(
                f"{path}: required.{alias} is empty", alias, "name a signer or leave the alias out"
            )
        for name in names:
            if name not in settings.signers:
                remedy = did_you_mean(name, settings.signers)
                raise unusable(f"{path}: required.{alias}: unknown signer", name, remedy)


_PARTS: dict[str, type[BaseModel]] = {
    "signers": Signer,
    "revoked_adapters": RevokedAdapter,
    "revoked_keys": RevokedKey,
}


def _invalid(error: ValidationError, path: Path) -> AdapterError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the policy"
    remedy = f"correct {where}"
    if first["type"] == "extra_forbidden":
        part = TrustSettings if len(first["loc"]) == 1 else _PARTS[str(first["loc"][0])]
        remedy = did_you_mean(str(first["loc"][-1]), part.model_fields)
    return unusable(f"{path}: {where}: {first['msg']}", first.get("input"), remedy)
