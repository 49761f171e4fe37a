"""LoRA weights as a value: which linear layer gets which low-rank delta, and every check on them.

An adapter changes ``y = W x + b`` into ``y = W x + b + (alpha / r) B A x`` (LoRA, arXiv 2106.09685,
eq. 3).
Nothing in this module reads or writes files: see :mod:`vlaforget_ros.adapters.peft_format`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch

from vlaforget_ros.errors import AdapterError, ErrorCode, did_you_mean
from vlaforget_ros.finite import all_finite

DEFAULT_RANK_LIMIT = 256
FLOAT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class LoraModule:
    """The delta of one linear layer.

    Args:
        a: down projection, shape (r, in_features).
        b: up projection, shape (out_features, r).
        alpha: LoRA alpha; the delta is ``alpha / r * b @ a``.
    """

    a: torch.Tensor
    b: torch.Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    @property
    def out_in(self) -> tuple[int, int]:
        """Shape of the weight this delta is for: (out_features, in_features)."""
        return int(self.b.shape[0]), int(self.a.shape[1])

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.a, self.b))

    def delta(self) -> torch.Tensor:
        """The dense change of the weight, (out_features, in_features), float32."""
        return self.scale * (self.b.float() @ self.a.float())


@dataclass(frozen=True)
class LoraWeights:
    """All deltas of one adapter. Treat the tensors as read-only.

    Args:
        modules: module path in the base model -> its delta.
        base_digest: SHA-256 of the base weights this was made for, "" where unknown.
        digest: digest of the stored adapter, "" before it is in a store.
    """

    modules: Mapping[str, LoraModule]
    base_digest: str = ""
    digest: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "modules", MappingProxyType(dict(sorted(self.modules.items()))))

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
        *,
        alpha: float,
        base_digest: str = "",
    ) -> LoraWeights:
        """Adapter from trained factors, copied to the CPU and checked.

        Args:
            tensors: module path -> (A of shape (r, in), B of shape (out, r)).
            alpha: LoRA alpha, the same for all modules.
            base_digest: digest of the base model.

        Raises:
            AdapterError: 104 for shapes that do not fit together, 105 for NaN or infinity.
        """
        modules = {
            name: LoraModule(a.detach().to("cpu", copy=True), b.detach().to("cpu", copy=True), float(alpha))
            for name, (a, b) in tensors.items()
        }
        weights = cls(modules, base_digest)
        weights.check()
        return weights

    @property
    def rank(self) -> int:
        """The largest rank of any module."""
        return max((module.rank for module in self.modules.values()), default=0)

    @property
    def bytes(self) -> int:
        return sum(module.bytes for module in self.modules.values())

    def with_digests(self, digest: str, base_digest: str) -> LoraWeights:
        """The same tensors, named by their digest in a store."""
        return replace(self, digest=digest, base_digest=base_digest)

    def check(self, rank_limit: int = DEFAULT_RANK_LIMIT) -> None:
        """Check factors, ranks and finiteness.

        Raises:
            AdapterError: 104 bad shape or type, 105 non-finite values, 106 over the rank limit.
        """
        if not self.modules:
            raise AdapterError(
                ErrorCode.ADAPTER_BAD_SHAPE,
                "the adapter changes no layer",
                remedy="the edit selected nothing or trained nothing: read its report",
            )
        for name, module in self.modules.items():
            _check_factors(name, module, rank_limit)
        for name, module in self.modules.items():
            _check_finite(name, module)

    def check_fits(self, shapes: Mapping[str, tuple[int, int]]) -> None:
        """Check that each module exists in a model with this shape.

        Args:
            shapes: module path -> (out_features, in_features) of the model's linear layers.

        Raises:
            AdapterError: 104 naming the first module that does not fit.
        """
        for name, module in self.modules.items():
            if name not in shapes:
                raise AdapterError(
                    ErrorCode.ADAPTER_BAD_SHAPE,
                    "the adapter is for a linear layer that this model does not have or does not let adapters change",
                    value=name,
                    remedy=did_you_mean(name, shapes) if len(shapes) < 2000 else "check the base model",
                )
            if module.out_in != shapes[name]:
                raise AdapterError(
                    ErrorCode.ADAPTER_BAD_SHAPE,
                    f"shape of the delta of {name}",
                    value=module.out_in,
                    limit=shapes[name],
                    remedy="the adapter was made for another base model",
                )


def combine(adapters: Iterable[LoraWeights]) -> LoraWeights:
    """One adapter whose deltas are the sums of the given ones (ranks add up where layers meet).

    Used to fold the stages of an edit, or a parent adapter and an edit on top of it, into one file.

    Raises:
        AdapterError: 104 where two deltas of one layer have different shapes.
    """
    merged: dict[str, LoraModule] = {}
    base_digest = ""
    for weights in adapters:
        base_digest = base_digest or weights.base_digest
        for name, module in weights.modules.items():
            merged[name] = _sum(name, merged[name], module) if name in merged else module
    return LoraWeights(merged, base_digest)


def _sum(name: str, left: LoraModule, right: LoraModule) -> LoraModule:
    if left.out_in != right.out_in:
        raise AdapterError(
            ErrorCode.ADAPTER_BAD_SHAPE,
            f"two deltas of {name} differ in shape",
            value=right.out_in,
            limit=left.out_in,
        )
    rank = left.rank + right.rank
    a = torch.cat([left.a, right.a.to(left.a.dtype)], dim=0)
    b = torch.cat([left.scale * left.b, right.scale * right.b.to(left.b.dtype)], dim=1)
    return LoraModule(a.contiguous(), b.contiguous(), alpha=float(rank))


def compressed(weights: LoraWeights, most: int = DEFAULT_RANK_LIMIT) -> LoraWeights:
    """The same deltas with factors of the smallest rank that gives them; nothing is approximated.

    Only layers whose rank exceeds what any delta of their shape can have, min(out, in), or ``most`` are written anew. A
    delta that truly needs more than ``most`` keeps it: :meth:`LoraWeights.check` is what refuses it.

    Args:
        weights: for example the sum of a chain of edits.
        most: rank beyond which a layer is looked at.
    """
    modules = {
        name: _compress(module) if module.rank > min(most, *module.out_in) else module
        for name, module in weights.modules.items()
    }
    return replace(weights, modules=modules)


def _compress(module: LoraModule) -> LoraModule:
    """QR of both factors, then an SVD of the small matrix between them: (out, in) itself is never formed.

    With B = Q_b R_b and A^T = Q_a R_a the delta is Q_b (R_b R_a^T) Q_a^T. Singular values that together are less than
    float32 factors can tell from nothing are noise of their rounding.
    """
    q_b, r_b = torch.linalg.qr(module.scale * module.b.double())
    q_a, r_a = torch.linalg.qr(module.a.double().T)
    u, sizes, v = torch.linalg.svd(r_b @ r_a.T)
    tails = sizes.square().flip(0).cumsum(0).flip(0).sqrt()
    rank = max(1, int((tails > torch.finfo(torch.float32).eps * tails[0]).sum()))
    root = sizes[:rank].sqrt()
    b = (q_b @ u[:, :rank]) * root
    a = root[:, None] * (v[:rank] @ q_a.T)
    return LoraModule(a.float().contiguous(), b.float().contiguous(), alpha=float(rank))


def _check_factors(name: str, module: LoraModule, rank_limit: int) -> None:
    a, b = module.a, module.b
    if a.dim() != 2 or b.dim() != 2 or a.shape[0] != b.shape[1] or 0 in a.shape or 0 in b.shape:
        raise AdapterError(
            ErrorCode.ADAPTER_BAD_SHAPE,
            f"factors of {name} do not fit together",
            value=f"A {tuple(a.shape)}, B {tuple(b.shape)}",
            limit="A (r, in), B (out, r)",
        )
    if a.dtype not in FLOAT_DTYPES or b.dtype not in FLOAT_DTYPES:
        raise AdapterError(
            ErrorCode.ADAPTER_BAD_SHAPE,
            f"data type of {name}",
            value=f"{a.dtype}, {b.dtype}",
            limit="float32, float16 or bfloat16",
        )
    if module.rank > rank_limit:
        raise AdapterError(
            ErrorCode.ADAPTER_OVER_RANK_LIMIT,
            f"rank of {name}",
            value=module.rank,
            limit=rank_limit,
            remedy="edit with a lower rank, or raise rank_limit if the robot has the memory and the time",
        )


def _check_finite(name: str, module: LoraModule) -> None:
    if not all_finite(module.a, module.b) or not abs(module.alpha) < float("inf"):
        raise AdapterError(
            ErrorCode.ADAPTER_NON_FINITE,
            f"NaN or infinity in {name}",
            remedy="the edit diverged: lower its learning rate, never serve this file",
        )
