"""Rounding the weights of an edited policy: does the behaviour come back when the policy is deployed in 8 or 4 bits?

Weight-only round-to-nearest, de-quantised in place, so that only the rounding error is studied and not a kernel.
Edits are small changes of weights; where they are smaller than a rounding step they vanish (arXiv 2410.16454).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vlaforget_ros.attacks.findings import Findings, Report, quiet
from vlaforget_ros.attacks.outcomes import percent
from vlaforget_ros.attacks.subject import Subject, weights_replaced
from vlaforget_ros.attacks.trials import Trials
from vlaforget_ros.figures import Figure
from vlaforget_ros.unlearning.gates import quantisation_gates
from vlaforget_ros.unlearning.lora import linear
from vlaforget_ros.unlearning.metrics import OfflineMetrics
from vlaforget_ros.unlearning.rates import Rate, forget_completeness, fts

GROUP = 64

# NormalFloat4 (QLoRA, arXiv 2305.14314, appendix E): quantiles of the normal distribution, with an exact zero.
NF4_LEVELS = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


def int8(weight: Tensor) -> Tensor:
    """Symmetric, one scale for each output channel: w' = s round(w / s), s = max|w_row| / 127.

    Args:
        weight: (out, in).

    Returns:
        (out, in) of the same type, on the grid.
    """
    scale = weight.float().abs().amax(dim=1, keepdim=True) / 127.0
    return _on_grid(weight.float(), scale, -127, 127).to(weight.dtype)


def int4(weight: Tensor) -> Tensor:
    """Asymmetric, groups of 64 inputs: w' = s (clip(round(w / s) + z, 0, 15) - z), as GPTQ's grid (arXiv 2210.17323).

    s = (max - min) / 15 and z = round(-min / s), with 0 counted into min and max; the last group of a row may be
    shorter. Arguments and result as in :func:`int8`.
    """
    return _by_groups(weight, _asymmetric)


def int4_symmetric(weight: Tensor) -> Tensor:
    """Symmetric, groups of 64 inputs: w' = s clip(round(w / s), -8, 7), s = max|w_group| / 7; as in :func:`int4`."""
    return _by_groups(weight, lambda group: _on_grid(group, group.abs().amax(1, keepdim=True) / 7.0, -8, 7))


def nf4(weight: Tensor) -> Tensor:
    """Nearest of 16 quantiles times the largest magnitude of its block of 64 (QLoRA, arXiv 2305.14314, eq. 4).

    Blocks run through the weight row by row; the scales themselves are not quantised. As in :func:`int8`.
    """
    levels = torch.tensor(NF4_LEVELS, device=weight.device)
    middles = (levels[1:] + levels[:-1]) / 2
    flat = weight.float().flatten()
    padded = torch.nn.functional.pad(flat, (0, -len(flat) % GROUP)).view(-1, GROUP)
    scale = padded.abs().amax(dim=1, keepdim=True)
    nearest = levels[torch.bucketize(padded / _not_zero(scale), middles)] * scale
    return nearest.flatten()[: len(flat)].view_as(weight).to(weight.dtype)


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "int8": int8,
    "nf4": nf4,
    "int4": int4,
    "int4_symmetric": int4_symmetric,
}
"""Precision -> rounding of one weight."""


def recovery_rate(full: float, quantised: float) -> float | None:
    """QRR_q = (FC_fp - FC_q) / FC_fp: share of the forgetting that rounding undoes, negative where it adds some.

    None where the edited policy forgot nothing in full precision: there is nothing to be undone.
    """
    return None if full == 0 else (full - quantised) / full


@torch.no_grad()
def attack(subject: Subject, trials: Trials | None = None, report: Report = quiet) -> Findings:
    """FC, RC and QRR of the edited policy at every precision; BSR and QRR in closed loop where there are trials.

    The gates look at the larger of the two QRRs.

    Args:
        subject: the edited policy; as it was afterwards.
        trials: closed-loop episodes, or None.
        report: told about the progress.
    """
    found = [percent("fc_full", _rate(subject.after.fc, subject)), *_kept("full", subject.after)]
    worst: dict[str, float | None] = {}
    remarks: list[str] = []
    if trials is not None:
        found += [percent("bsr_original", trials.before), percent("bsr_full", trials.after)]
        found.append(percent("fts_full", fts(trials.told_after)))
    if subject.after.fc == 0:
        remarks.append("FC is 0 in full precision: no QRR is defined")
    for number, (name, rounding) in enumerate(KINDS.items()):
        report("quantisation", number, len(KINDS))
        with weights_replaced(subject.policy, _rounded(subject, rounding)):
            after = subject.evaluation.measure()
            rates = [recovery_rate(subject.after.fc, after.fc)]
            found += [percent(f"fc_{name}", _rate(after.fc, subject)), *_kept(name, after)]
            if rates[0] is not None:
                found.append(Figure(f"qrr_{name}", round(rates[0], 4), "ratio", after.forget_frames))
            if trials is not None:
                told = trials.run_attacked(subject.policy, f"quantised {name}")
                back = trials.bsr(told)
                rates.append(_closed_rate(trials.before, trials.after, back))
                found += [percent(f"bsr_{name}", back), percent(f"fts_{name}", fts(told))]
                if rates[1] is not None:
                    found.append(Figure(f"qrr_closed_{name}", round(rates[1], 4), "ratio", back.n))
        worst[name] = max((rate for rate in rates if rate is not None), default=None)
    report("quantisation", len(KINDS), len(KINDS))
    return Findings(
        figures=tuple(found),
        details={"qrr": worst, "group": GROUP, "layers": len(subject.modules)},
        gates=tuple(quantisation_gates(subject.request.gates, worst)),
        remarks=tuple(remarks),
    )


def _rounded(subject: Subject, rounding: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    return {name: rounding(linear(subject.policy.model, name).weight.data) for name in subject.modules}


def _kept(name: str, metrics: OfflineMetrics) -> list[Figure]:
    return [
        Figure(f"rc_{name}", round(metrics.rc, 2), "percent", metrics.retain_frames),
        Figure(f"rad_{name}", round(metrics.rad, 4), "ratio", metrics.retain_frames),
    ]


def _rate(percentage: float, subject: Subject) -> Rate:
    n = subject.after.forget_frames
    return Rate.count(round(percentage * n / 100), n)


def _closed_rate(original: Rate, full: Rate, quantised: Rate) -> float | None:
    before, after = forget_completeness(original, full), forget_completeness(original, quantised)
    return None if before is None or after is None else recovery_rate(before.value, after.value)


def _by_groups(weight: Tensor, rounding: Callable[[Tensor], Tensor]) -> Tensor:
    parts = weight.float().split(GROUP, dim=1)
    return torch.cat([rounding(part) for part in parts], dim=1).to(weight.dtype)


def _asymmetric(group: Tensor) -> Tensor:
    low = group.amin(dim=1, keepdim=True).clamp(max=0.0)
    high = group.amax(dim=1, keepdim=True).clamp(min=0.0)
    scale = _not_zero((high - low) / 15.0)
    zero = torch.round(-low / scale)
    return scale * (torch.clamp(torch.round(group / scale) + zero, 0, 15) - zero)


def _on_grid(weight: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    return scale * torch.clamp(torch.round(weight / _not_zero(scale)), low, high)


def _not_zero(scale: Tensor) -> Tensor:
    """A block of zeros has scale 0 and stays zero."""
    return torch.where(scale == 0, torch.ones_like(scale), scale)
