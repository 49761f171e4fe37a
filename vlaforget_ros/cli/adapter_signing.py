"""``vlaforget adapters keys | sign | verify``: who vouches for an adapter, and whether it is what was signed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from vlaforget_ros.cli.output import console, plain_table, print_json

if TYPE_CHECKING:
    from vlaforget_ros.adapters.store import AdapterStore

TRUST = typer.Option(None, "--trust", help="Trust policy (YAML), see config/trust.yaml.")
_STORE = typer.Option(Path("runs/adapters"), "--store", help="Folder of the store.")
_JSON = typer.Option(False, "--json", help="Print JSON.")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_DAYS = re.compile(r"[1-9]\d{0,4}d")

_keys = typer.Typer(no_args_is_help=True, help="Keys that adapters are signed with.")


def register(app: typer.Typer) -> None:
    """Add the commands to `vlaforget adapters`."""
    app.add_typer(_keys, name="keys")
    app.command()(sign)
    app.command()(verify)


def open_store(store: Path, trust: Path | None) -> AdapterStore:
    """A store under the trust policy of a file; None: no policy. Raises AdapterError 112 for an unusable one."""
    from vlaforget_ros.adapters.store import AdapterStore
    from vlaforget_ros.adapters.trust import TrustPolicy

    return AdapterStore(store, trust=None if trust is None else TrustPolicy.load(trust))


@_keys.command("new")
def keys_new(directory: Path = typer.Argument(..., help="Where to; not in a store.")) -> None:
    """Make a key pair (EC P-256): signing.key, which only you can read, and signing.pub for trust policies."""
    from vlaforget_ros.adapters import keys

    fingerprint = keys.new_key(directory)
    console.print(
        f"{directory / keys.PRIVATE_FILE}: private, mode 0600, keep it off the robots", soft_wrap=True
    )
    console.print(f"{directory / keys.PUBLIC_FILE}: public, for trust.yaml", soft_wrap=True)
    console.print(f"fingerprint {fingerprint}", highlight=False, soft_wrap=True)


@_keys.command("show")
def keys_show(key: Path = typer.Argument(..., exists=True, dir_okay=False, help="Public key (PEM).")) -> None:
    """The fingerprint of a public key, as signatures, policies and the history name it."""
    from vlaforget_ros.adapters import keys

    console.print(keys.fingerprint(key.read_bytes(), key), highlight=False, soft_wrap=True)


def sign(
    adapter: str,
    key: Path = typer.Option(..., "--key", help="Private key (EC, PEM, not encrypted)."),
    expires: str = typer.Option(
        "", help="Last day that it counts (2027-01-31, UTC), or days from now (90d); empty: for ever."
    ),
    certificate: Path | None = typer.Option(
        None, help="Certificate of the key; its root is trusted, not the key."
    ),
    chain: list[Path] = typer.Option([], help="Certificate between that one and a root; may be repeated."),
    store: Path = _STORE,
    json: bool = _JSON,
) -> None:
    """Sign ADAPTER (alias, name, digest): its weights, configuration and manifest, not later evidence.

    The signature lies beside the manifest. Several people may sign; who signs again replaces the earlier signature.
    """
    from vlaforget_ros.adapters.manifest import core_bytes
    from vlaforget_ros.adapters.signatures import Terms, whole_seconds
    from vlaforget_ros.adapters.signing import identity
    from vlaforget_ros.adapters.signing import sign as make
    from vlaforget_ros.adapters.store import AdapterStore

    now = whole_seconds(datetime.now(UTC))
    terms = Terms(signed=now, expires=expiry(expires, now))
    opened = AdapterStore(store)
    digest = opened.resolve(adapter)
    # Nobody vouches for weights that are not those of the manifest.
    opened.load(digest)
    signed = make(core_bytes(opened.manifest(digest).core), terms, key, certificate=certificate, chain=chain)
    opened.add_signature(digest, signed)
    fingerprint = identity(signed).fingerprint
    if json:
        print_json({"digest": digest, "fingerprint": fingerprint, **terms.model_dump(mode="json")})
        return
    until = f"until {terms.expires:%Y-%m-%d %H:%M} UTC" if terms.expires else "without expiry"
    console.print(f"{digest[:12]} signed with key {fingerprint[:12]}, {until}", highlight=False)


@dataclass(frozen=True)
class Checked:
    """What `verify` found out about an adapter; ``error`` is "" where it is as it should be."""

    digest: str
    name: str
    signer: str
    code: int
    error: str

    @property
    def row(self) -> list[str]:
        return [self.digest[:12], self.name, self.signer, str(self.code) if self.code else "ok"]


def verify(
    adapter: str = typer.Argument("", help="Alias, name or digest; empty: every adapter of the store."),
    store: Path = _STORE,
    trust: Path | None = TRUST,
    json: bool = _JSON,
) -> None:
    """Check every byte against the digest and, with --trust, the signatures against the policy.

    Exit status 1 where anything is wrong. Without --trust signatures are shown, and nobody vouches for them.
    """
    opened = open_store(store, trust)
    digests = [opened.resolve(adapter)] if adapter else opened.digests()
    found = [_checked(opened, digest) for digest in digests if digest]
    if json:
        print_json([vars(checked) for checked in found])
    else:
        _print(found, trust)
    if any(checked.error for checked in found):
        raise typer.Exit(1)


def _checked(store: AdapterStore, digest: str) -> Checked:
    from vlaforget_ros.errors import AdapterError

    name = ""
    try:
        name = store.manifest(digest).name
        signer = store.signer(digest)
        store.load(digest)
    except AdapterError as error:
        return Checked(digest, name, "", int(error.code), str(error))
    return Checked(digest, name, signer, 0, "")


def _print(found: list[Checked], trust: Path | None) -> None:
    title = f"{len(found)} adapter(s), {'trust policy ' + str(trust) if trust else 'no trust policy'}"
    console.print(plain_table(["digest", "name", "signer", "verdict"], [c.row for c in found], title))
    for checked in found:
        if checked.error:
            text = escape(checked.error)
            console.print(
                f"{checked.digest[:12]} [bold red]refused[/]: {text}", highlight=False, soft_wrap=True
            )


def expiry(text: str, now: datetime) -> datetime | None:
    """When a signature stops counting: the end of a day in UTC, some days from now, or "" never.

    Raises:
        AdapterError: 113 for what is neither, or not in the future.
    """
    from vlaforget_ros.errors import AdapterError, ErrorCode

    if not text:
        return None
    found: datetime | None = None
    if _DAYS.fullmatch(text):
        found = now + timedelta(days=int(text[:-1]))
    elif _DATE.fullmatch(text):
        found = _end_of_day(text)
    if found is None or found <= now:
        raise AdapterError(
            ErrorCode.ADAPTER_EXPIRED,
            "not a time at which a signature can expire",
            value=text,
            limit=f"a day after {now:%Y-%m-%d}, or days such as 90d",
            remedy="give --expires 2027-01-31 or --expires 90d",
        )
    return found


def _end_of_day(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC) + timedelta(days=1)
    except ValueError:
        # The 31st of February: the caller says what is accepted.
        return None
