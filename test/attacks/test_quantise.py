"""Rounding by hand, and what it does to a policy and to the gates."""

from __future__ import annotations

import pytest
import torch

from vlaforget_ros.attacks import quantise
from vlaforget_ros.attacks.quantise import (
    GROUP,
    KINDS,
    NF4_LEVELS,
    int4,
    int4_symmetric,
    int8,
    nf4,
    recovery_rate,
)
from vlaforget_ros.attacks.subject import Subject
from vlaforget_ros.unlearning.gates import Gates, Verdict, quantisation_gates


def test_int8_has_a_scale_for_each_output_channel() -> None:
    weight = torch.tensor([[1.27, 0.014, -0.016, 0.004], [127.0, 0.4, -0.6, 1.5]])
    # Row 0: steps of 0.01; row 1: steps of 1 (1.5 rounds to the even 2).
    expected = torch.tensor([[1.27, 0.01, -0.02, 0.0], [127.0, 0.0, -1.0, 2.0]])
    torch.testing.assert_close(int8(weight), expected)


def test_int4_is_asymmetric_in_groups_of_64_inputs() -> None:
    weight = torch.zeros(1, GROUP + 2)
    weight[0, :3] = torch.tensor([1.0, -0.5, 0.26])
    weight[0, GROUP:] = torch.tensor([30.0, 3.0])
    found = int4(weight)
    # First group: s = 1.5 / 15 = 0.1, z = 5, so -0.5 .. 1.0 in tenths; second: s = 2, z = 0, 3 / 2 rounds to 2.
    torch.testing.assert_close(found[0, :4], torch.tensor([1.0, -0.5, 0.3, 0.0]))
    torch.testing.assert_close(found[0, GROUP:], torch.tensor([30.0, 4.0]))


def test_int4_symmetric_is_the_same_for_both_signs() -> None:
    weight = torch.zeros(1, GROUP)
    weight[0, :4] = torch.tensor([0.7, -0.7, 0.26, -0.34])
    torch.testing.assert_close(int4_symmetric(weight)[0, :5], torch.tensor([0.7, -0.7, 0.3, -0.3, 0.0]))


def test_nf4_takes_the_nearest_level_times_the_largest_magnitude_of_its_block() -> None:
    weight = torch.zeros(2, GROUP)
    weight[0, :4] = torch.tensor([2.0, -2.0 * 0.70, 2.0 * 0.36, 2.0 * 0.04])
    weight[1, :2] = torch.tensor([-0.5, 0.5 * 0.11])
    found = nf4(weight)
    expected = 2.0 * torch.tensor([1.0, NF4_LEVELS[1], NF4_LEVELS[11], NF4_LEVELS[8]])
    # 0.04 lies just above the middle of 0 and 0.0796; 0.11 is nearer to 0.0796 than to 0.161.
    torch.testing.assert_close(found[0, :4], expected)
    torch.testing.assert_close(found[1, :2], 0.5 * torch.tensor([-1.0, NF4_LEVELS[8]]))
    assert len(NF4_LEVELS) == 16
    assert sorted(NF4_LEVELS) == list(NF4_LEVELS)


def test_nf4_levels_are_those_of_its_formula() -> None:
    """QLoRA: quantiles of N(0, 1), 8 above zero and 7 below it and zero itself, normalised (offset 0.9677083)."""
    from scipy.stats import norm

    offset = 0.9677083
    above = norm.ppf([offset + (0.5 - offset) * i / 8 for i in range(8)])
    below = -norm.ppf([offset + (0.5 - offset) * i / 7 for i in range(7)])
    levels = sorted([*above, 0.0, *below])
    assert [level / max(above) for level in levels] == pytest.approx(NF4_LEVELS, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_every_rounding_keeps_shape_type_and_zeros_and_is_done_once(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 130, generator=generator)
    weight[2] = 0.0
    once = KINDS[kind](weight)
    assert once.shape == weight.shape
    assert torch.equal(once[2], weight[2])
    torch.testing.assert_close(KINDS[kind](once), once)
    worst = {"int8": 0.02, "nf4": 0.5, "int4": 0.25, "int4_symmetric": 0.3}[kind]
    assert 0 < float((once - weight).abs().max()) < worst
    assert KINDS[kind](weight.to(torch.bfloat16)).dtype == torch.bfloat16


def test_recovery_rate_by_hand() -> None:
    assert recovery_rate(80.0, 60.0) == pytest.approx(0.25)
    assert recovery_rate(80.0, 100.0) == pytest.approx(-0.25)
    assert recovery_rate(0.0, 10.0) is None


def test_the_worse_of_the_4_bit_precisions_counts() -> None:
    gates = Gates()
    found = {g.name: g for g in quantisation_gates(gates, {"int8": 0.1, "nf4": 0.05, "int4": 0.21})}
    assert found["qrr_int8_max"].verdict == Verdict.PASSED
    assert (found["qrr_4bit_max"].verdict, found["qrr_4bit_max"].value) == (Verdict.FAILED, 0.21)
    open_ = {g.name: g.verdict for g in quantisation_gates(gates, {"int8": None})}
    assert set(open_.values()) == {Verdict.NOT_MEASURED}
    assert (gates.qrr_int8_max, gates.qrr_4bit_max) == (0.10, 0.20)


def test_the_attack_measures_every_precision_and_leaves_the_policy_as_it_was(subject: Subject) -> None:
    before = {name: tensor.clone() for name, tensor in subject.policy.model.state_dict().items()}
    found = quantise.attack(subject)
    figures = {figure.name: figure.value for figure in found.figures}
    assert {f"{name}_{kind}" for name in ("fc", "rc", "rad") for kind in KINDS} < set(figures)
    for kind in KINDS:
        assert figures[f"qrr_{kind}"] == pytest.approx(
            recovery_rate(subject.after.fc, figures[f"fc_{kind}"]), abs=1e-3
        )
    assert [gate.name for gate in found.gates] == ["qrr_int8_max", "qrr_4bit_max"]
    assert found.gates[0].value == pytest.approx(figures["qrr_int8"], abs=1e-3)
    after = subject.policy.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
