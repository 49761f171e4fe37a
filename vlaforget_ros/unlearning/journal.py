"""What an edit leaves on disk while it runs: finished stages to go on from, and a log of every decision."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlaforget_ros.errors import ErrorCode, UnlearningError

Factors = dict[str, tuple[Tensor, Tensor]]
_IDENTITY, _LOG, _STAGES = "identity.json", "log.jsonl", "stages"


class Journal:
    """A folder with ``identity.json``, ``log.jsonl`` and ``stages/<name>.json|.safetensors|.part``.

    Args:
        directory: made if need be.
        identity: what makes an edit the same edit: request hash, base digest, hashes of the sets.
        resume: go on from finished stages; otherwise those of an earlier run are removed.

    Raises:
        UnlearningError: 300 when resuming an edit with another identity.
    """

    def __init__(self, directory: Path, identity: Mapping[str, Any], resume: bool) -> None:
        self.directory = directory
        (directory / _STAGES).mkdir(parents=True, exist_ok=True)
        before = directory / _IDENTITY
        if resume and before.is_file():
            _require_same(json.loads(before.read_text()), dict(identity), directory)
        else:
            self._clear()
            _write(before, (json.dumps(dict(identity), indent=2, sort_keys=True) + "\n").encode())

    def log(self, event: str, **values: Any) -> None:
        """Append one JSON line."""
        with (self.directory / _LOG).open("a") as file:
            file.write(json.dumps({"event": event, **values}) + "\n")

    def finish(self, name: str, record: Mapping[str, Any], factors: Factors) -> None:
        """Store a finished stage or round: first the weights, then the record that makes it count."""
        tensors = {
            f"{module}.{x}": t for module, pair in factors.items() for x, t in zip("AB", pair, strict=True)
        }
        weights = self._path(name, "safetensors")
        temporary = weights.with_suffix(".tmp")
        save_file(tensors, temporary)
        temporary.replace(weights)
        _write(self._path(name, "json"), (json.dumps(dict(record), indent=2) + "\n").encode())
        self._path(name, "part").unlink(missing_ok=True)

    def keep(self, name: str, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Store an unfinished round in place of what was stored of it before.

        Weights and record are one file: a kill between two files would leave a mixture.
        """
        temporary = self._path(name, "part.tmp")
        contiguous = {key: tensor.detach().to("cpu").contiguous() for key, tensor in tensors.items()}
        save_file(contiguous, temporary, metadata={"record": json.dumps(dict(record))})
        temporary.replace(self._path(name, "part"))

    def kept(self, name: str) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """What :meth:`keep` stored, or None."""
        path = self._path(name, "part")
        if not path.is_file():
            return None
        with safe_open(path, framework="pt") as file:
            record = json.loads(file.metadata()["record"])
            return record, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118

    def finished(self, name: str) -> tuple[dict[str, Any], Factors] | None:
        """What :meth:`finish` stored, or None."""
        path = self._path(name, "json")
        if not path.is_file():
            return None
        tensors = load_file(self._path(name, "safetensors"))
        modules = sorted({key[:-2] for key in tensors})
        return json.loads(path.read_text()), {m: (tensors[f"{m}.A"], tensors[f"{m}.B"]) for m in modules}

    def _clear(self) -> None:
        for path in [*(self.directory / _STAGES).iterdir(), self.directory / _LOG]:
            path.unlink(missing_ok=True)

    def _path(self, name: str, suffix: str) -> Path:
        return self.directory / _STAGES / f"{name}.{suffix}"


def _require_same(before: dict[str, Any], now: dict[str, Any], directory: Path) -> None:
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAD_REQUEST,
            f"cannot resume: {', '.join(changed)} changed since the edit began",
            value=str(directory),
            remedy="resume with the same request, base and bags, or start anew in another folder",
        )


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
