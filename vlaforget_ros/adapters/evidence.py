"""What was measured on an adapter after it was made: documents beside its manifest, outside its digest.

The bytes of an adapter never change, what is known about it does. A document is any JSON object; the key ``gates``
is understood here: a list of ``{"name", "verdict", "value", "limit", ...}``, of which one with the verdict ``failed``
keeps the adapter from becoming ``stable``. Nothing covers evidence by a digest: who can write the store can change it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from vlaforget_ros.errors import AdapterError, ErrorCode

_KIND = re.compile(r"[a-z][a-z0-9_]{0,63}")


class GateEntry(BaseModel):
    """One gate of a document; whatever else it says is kept.

    Args:
        name: of the gate.
        verdict: what it says; ``failed`` blocks promotion.
        value: the figure, None where it was not measured.
        limit: what the figure had to reach or to stay below.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    name: str
    verdict: Literal["passed", "failed", "not_measured"]
    value: float | None = None
    limit: float | None = None


_GATES = TypeAdapter(list[GateEntry])


def checked(kind: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """A document as plain JSON values.

    Raises:
        AdapterError: 103 for a bad kind, for what JSON cannot say (NaN and infinity among it), and for gates that
            are none.
    """
    if not _KIND.fullmatch(kind):
        raise _bad("not a kind of evidence", kind, "a letter, then letters, digits and _ (64 at most)")
    try:
        plain = json.loads(json.dumps(dict(document), allow_nan=False))
        gates_of(plain)
    except (TypeError, ValueError) as error:
        raise _bad(f"evidence {kind}", _reason(error), "finite JSON values; gates with a verdict") from error
    return dict(plain)


def gates_of(document: Mapping[str, Any]) -> list[GateEntry]:
    """The gates of a document, none where it has no such key. Raises pydantic's ValidationError."""
    return _GATES.validate_python(document.get("gates", []))


def failed_gates(evidence: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, GateEntry]]:
    """Gates that failed: (kind of evidence, gate), in the order of the kinds."""
    return [
        (kind, gate)
        for kind, document in sorted(evidence.items())
        for gate in gates_of(document)
        if gate.verdict == "failed"
    ]


def check_promotable(name: str, evidence: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises AdapterError 108 naming the first failed gate, its value and its limit."""
    failed = failed_gates(evidence)
    if not failed:
        return
    kind, gate = failed[0]
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    raise AdapterError(
        ErrorCode.ADAPTER_NOT_PROMOTABLE,
        f"adapter {name} failed gate {gate.name} of its {kind} evidence{more}",
        value=gate.value,
        limit=gate.limit,
        remedy="edit again, or attach new evidence of this kind after measuring again",
    )


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"gates.{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return str(error)


def _bad(what: str, value: str, limit: str) -> AdapterError:
    return AdapterError(
        ErrorCode.ADAPTER_BAD_DIGEST, what, value=value, limit=limit, remedy="correct the document"
    )
