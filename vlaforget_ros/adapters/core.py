"""What the digest of an adapter covers, from its files and from what its maker says."""

from __future__ import annotations

from collections.abc import Mapping

from vlaforget_ros.adapters.lora import LoraWeights
from vlaforget_ros.adapters.manifest import Core, FileEntry, Provenance, sha256
from vlaforget_ros.adapters.names import check_base
from vlaforget_ros.errors import AdapterError, ErrorCode


def core_of(files: Mapping[str, bytes], weights: LoraWeights, provenance: Provenance) -> Core:
    """What the digest of an adapter covers.

    Args:
        files: content of its files by name.
        weights: the same, read.
        provenance: what its maker says.

    Raises:
        AdapterError: 101 where files and maker name different base models, or neither names one.
    """
    stated, configured = provenance.base_digest, weights.base_digest
    if stated and configured:
        check_base(configured, stated, provenance.name)
    if not stated and not configured:
        raise AdapterError(
            ErrorCode.ADAPTER_BASE_MISMATCH,
            f"nothing says which base model adapter {provenance.name} is for",
            remedy="give base_digest, or base_model_name_or_path sha256:<digest> in adapter_config.json",
        )
    entries = {name: FileEntry(sha256=sha256(data), bytes=len(data)) for name, data in files.items()}
    computed = {"rank": weights.rank, "modules": tuple(weights.modules), "files": entries}
    return Core(**{**dict(provenance), "base_digest": stated or configured, **computed})
