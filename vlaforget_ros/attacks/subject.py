"""The policy under attack: base and adapter merged, beside the very measurement that the edit was judged by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vlaforget_ros.adapters.lora import LoraWeights
from vlaforget_ros.adapters.names import check_base
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning.data import EditData, Split
from vlaforget_ros.unlearning.edit import evaluation_of
from vlaforget_ros.unlearning.lora import fold, linear
from vlaforget_ros.unlearning.metrics import OfflineEvaluation, OfflineMetrics
from vlaforget_ros.unlearning.parent import parent_of
from vlaforget_ros.unlearning.request import Request
from vlaforget_ros.unlearning.sources import gather


@dataclass(frozen=True, eq=False)
class Subject:
    """What is attacked.

    Args:
        request: of the edit.
        policy: the edited policy: the adapter is part of its weights.
        parent: adapter that the edit started from, part of the original policy.
        data: the edit's sets.
        rows: which of their frames it was trained and measured on.
        evaluation: offline metrics against the original policy.
        before: those of the original policy.
        after: those of the edited one.
        originals: weights of the original policy in the layers that the adapter changes.
        notes: where the sets came from.
    """

    request: Request
    policy: VlaPolicy
    parent: LoraWeights | None
    data: EditData
    rows: Split
    evaluation: OfflineEvaluation
    before: OfflineMetrics
    after: OfflineMetrics
    originals: Mapping[str, Tensor]
    notes: tuple[str, ...]

    @property
    def modules(self) -> list[str]:
        """Linear layers of the visual encoder's blocks, the projector and the language blocks, in network order.

        Embeddings and the language model's head are none of them: common quantisers leave those alone, and so
        does an edit.
        """
        return [m for layers in self.policy.components().values() for layer in layers for m in layer.modules]

    @contextmanager
    def original(self) -> Iterator[VlaPolicy]:
        """Inside, ``policy`` is the original one."""
        with weights_replaced(self.policy, self.originals):
            yield self.policy


@contextmanager
def weights_replaced(policy: VlaPolicy, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the named linear layers have other weights (out, in); afterwards the very same tensors are back."""
    layers = {name: linear(policy.model, name) for name in weights}
    kept = {name: layer.weight.data for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            layer.weight.data = weights[name].to(kept[name])
        yield
    finally:
        for name, layer in layers.items():
            layer.weight.data = kept[name]


def open_subject(request: Request, adapter: LoraWeights, store: Path | None = None) -> Subject:
    """Load base and data of a request, measure the original policy, and merge the adapter into it.

    Args:
        request: that the adapter was made from; its bags are read again.
        adapter: the finished edit.
        store: folder of the adapter store, for ``start_from``.

    Raises:
        PolicyError: 207 for an unusable base.
        AdapterError: 101 for an adapter of another base, 104 for one of another network.
        UnlearningError: 300 to 303 as in an edit.
    """
    policy = VlaPolicy.load(Path(request.base), request.device)
    if adapter.base_digest:
        check_base(adapter.base_digest, policy.base_digest, request.name)
    policy.model.eval().requires_grad_(False)
    gathered = gather(request, policy)
    parent = parent_of(request, policy.base_digest, store)
    touched = {*adapter.modules, *(parent.modules if parent else ())}
    known = {name for name, module in policy.model.named_modules() if isinstance(module, torch.nn.Linear)}
    base = {name: linear(policy.model, name).weight.detach().clone() for name in sorted(touched & known)}
    if parent is not None:
        fold(policy.model, parent)
    rows, evaluation = evaluation_of(
        policy, gathered.data, request.parameters, request.gates.tau_retain, request.seed
    )
    before = evaluation.measure()
    originals = {name: linear(policy.model, name).weight.detach().clone() for name in base}
    with torch.no_grad():
        for name, weight in base.items():
            linear(policy.model, name).weight.copy_(weight)
    fold(policy.model, adapter)
    return Subject(
        request=request,
        policy=policy,
        parent=parent,
        data=gathered.data,
        rows=rows,
        evaluation=evaluation,
        before=before,
        after=evaluation.measure(),
        originals=originals,
        notes=tuple(gathered.notes),
    )
