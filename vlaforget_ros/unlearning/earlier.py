"""The requests whose edits a policy already has in it: what a further edit must not undo."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vlaforget_ros.unlearning.metrics import TAU_FLOOR
from vlaforget_ros.unlearning.records import read_record
from vlaforget_ros.unlearning.request import Request, parse_request, read_request


@dataclass(frozen=True)
class EarlierRequest:
    """A request that was carried out before.

    Args:
        name: unique among those of one edit.
        request: what was asked for.
        tau: distance above which an action counted as another one in that edit's FC; ``TAU_FLOOR`` where its record is
            not at hand.
    """

    name: str
    request: Request
    tau: float


def read_earlier(paths: Iterable[str]) -> list[EarlierRequest]:
    """The requests at some paths, and the earlier ones that they name themselves, each once, the oldest first.

    Args:
        paths: request files (YAML) and folders of finished edits.

    Raises:
        UnlearningError: 300 for what is neither.
    """
    found: dict[str, EarlierRequest] = {}
    _collect(paths, found)
    return _named(found.values())


def _collect(paths: Iterable[str], found: dict[str, EarlierRequest]) -> None:
    for path in paths:
        request, tau = _read(Path(path))
        if request.digest not in found:
            _collect(request.earlier, found)
            found[request.digest] = EarlierRequest(request.name, request, tau)


def _read(path: Path) -> tuple[Request, float]:
    if not path.is_dir():
        return read_request(path), TAU_FLOOR
    record = read_record(path)
    return parse_request(record["request"]), float(record["after"]["metrics"]["tau"])


def _named(requests: Iterable[EarlierRequest]) -> list[EarlierRequest]:
    """With numbers where several have one name."""
    found: list[EarlierRequest] = []
    for earlier in requests:
        same = sum(other.request.name == earlier.name for other in found)
        name = f"{earlier.name}-{same + 1}" if same else earlier.name
        found.append(EarlierRequest(name, earlier.request, earlier.tau))
    return found
