"""The adapter that an edit starts from, which counts as part of the original policy."""

from __future__ import annotations

from pathlib import Path

from vlaforget_ros.adapters.lora import LoraWeights
from vlaforget_ros.adapters.peft_format import read_peft
from vlaforget_ros.adapters.store import AdapterStore
from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.unlearning.request import Request


def parent_of(request: Request, base_digest: str, store: Path | None) -> LoraWeights | None:
    """The weights of ``start_from``, None for the base.

    Args:
        request: a folder in PEFT format, or a reference into the store, in its ``start_from``.
        base_digest: of the base of the edit.
        store: folder of the adapter store, None without one.

    Raises:
        UnlearningError: 300 without a place to look it up in, 101 for an adapter of another base.
        AdapterError: 100 and 103 to 106 for one that cannot be read.
    """
    if not request.start_from:
        return None
    folder = Path(request.start_from)
    if folder.is_dir():
        weights = read_peft(folder)
    elif store is not None:
        adapters = AdapterStore(store)
        digest = adapters.resolve(request.start_from)
        if not digest:
            return None
        weights = adapters.load(digest, base_digest=base_digest)
    else:
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAD_REQUEST,
            "start_from is no folder, and there is no store to look it up in",
            value=request.start_from,
            limit="a PEFT folder, or a reference into the store given with --store",
            remedy="give the store, or the path of the adapter",
        )
    if weights.base_digest not in ("", base_digest):
        raise UnlearningError(
            ErrorCode.ADAPTER_BASE_MISMATCH,
            "start_from was made for another base",
            value=weights.base_digest,
            limit=base_digest,
            remedy="start from an adapter of this base",
        )
    return weights
