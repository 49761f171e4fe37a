"""The values and protocols of serving: what the engine takes and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import numpy as np
from torch import nn

from vlaforget_ros.adapters.lora import LoraWeights
from vlaforget_ros.adapters.manifest import Manifest
from vlaforget_ros.policy.policy import Observation, Prediction


class ServedPolicy(Protocol):
    """What the engine needs of a policy; :class:`VlaPolicy` is one."""

    @property
    def model(self) -> nn.Module: ...
    @property
    def base_digest(self) -> str: ...
    def act(self, image: np.ndarray, instruction: str, state: np.ndarray | None = None) -> Prediction: ...
    def act_together(
        self, asked: Sequence[Observation], entering: Callable[[Sequence[int]], None]
    ) -> list[Prediction]: ...
    def hold_step(self, state: np.ndarray | None = None) -> np.ndarray: ...
    def steps(self, action: np.ndarray) -> np.ndarray: ...


class AdapterSource(Protocol):
    """Where adapters come from; :class:`AdapterStore` is one."""

    def resolve(self, reference: str) -> str: ...
    def load(self, digest: str, *, base_digest: str | None = None) -> LoraWeights: ...
    def manifests(self) -> Sequence[Manifest]: ...
    def aliases(self) -> Mapping[str, str]: ...
    def signer(self, digest: str) -> str: ...
    def check_revoked(self, digest: str) -> None: ...
    def check_rollback(self, digest: str, *, by_operator: bool) -> None: ...
    def record(self, event: str, digest: str, **details: Any) -> None: ...


@dataclass(frozen=True)
class Inference:
    """One answer of the engine.

    Args:
        prediction: the action of this control tick, or the hold action with a fault.
        adapter_digest: the adapter that was active during the whole forward pass; "" = base model.
        inference_ms: wall-clock time in the owner thread [ms], waiting not counted.
        step: the control tick it was asked for.
        message: what went wrong, "" without a fault.
        decided: the model was asked; otherwise the action was left over of a chunk.
    """

    prediction: Prediction
    adapter_digest: str
    inference_ms: float
    step: int
    message: str = ""
    decided: bool = True


@dataclass(frozen=True)
class SwapResult:
    """What a swap or a rollback did.

    Args:
        previous_digest: active before; "" = base model.
        active_digest: active now.
        staged_ms: reading, checking and staging beside the running model [ms]; 0 if it was resident.
        swap_ms: how long the model was not available [ms].
        effective_step: first control tick made by it; -1 = no rollout is running.
    """

    previous_digest: str
    active_digest: str
    staged_ms: float
    swap_ms: float
    effective_step: int


@dataclass(frozen=True)
class AdapterInfo:
    """One adapter of the store, as ``policy/list_adapters`` shows it; fields as in AdapterInfo.msg."""

    digest: str
    name: str
    base_digest: str
    parent_digest: str
    method: str
    components: tuple[str, ...]
    layers: tuple[str, ...]
    rank: int
    bytes: int
    created: datetime
    aliases: tuple[str, ...]
    resident: bool
    signer: str
    gates_passed: bool


@dataclass(frozen=True)
class Latency:
    """Inference times over the last inferences that ran to their end [ms]."""

    p50_ms: float
    p99_ms: float
    count: int


def adapter_info(
    manifest: Manifest, aliases: Mapping[str, str], resident: bool, signer: str = ""
) -> AdapterInfo:
    """What is shown of an adapter."""
    core = manifest.core
    return AdapterInfo(
        digest=manifest.digest,
        name=core.name,
        base_digest=core.base_digest,
        parent_digest=core.parent_digest,
        method=core.method,
        components=core.components,
        layers=core.layers,
        rank=core.rank,
        bytes=manifest.size_bytes,
        created=manifest.created,
        aliases=tuple(sorted(name for name, digest in aliases.items() if digest == manifest.digest)),
        resident=resident,
        signer=signer,
        gates_passed=manifest.gates_passed,
    )
