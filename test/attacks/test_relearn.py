"""Relearning: the curve's crossing by hand, a real behaviour taught back, nothing left behind."""

from __future__ import annotations

import pytest
import torch

from vlaforget_ros.attacks.relearn import Ratio, RelearnSettings, Steps, attack, relearn, score, steps_until
from vlaforget_ros.attacks.subject import Subject
from vlaforget_ros.policy.policy import VlaPolicy


def test_steps_are_interpolated_between_recorded_points() -> None:
    curve = [(0, 0.0), (10, 20.0), (50, 60.0), (100, 90.0)]
    assert steps_until(curve, 40.0) == Steps(30.0, True)
    assert steps_until(curve, 20.0) == Steps(10.0, True)
    assert steps_until(curve, 90.0) == Steps(100.0, True)
    assert steps_until([(0, 55.0), (10, 20.0)], 50.0) == Steps(0.0, True)
    assert steps_until(((0, 0.0), (10, 60.0), (50, 10.0)), 50.0).value == pytest.approx(10 * 50 / 60)


def test_a_behaviour_that_is_not_back_gives_a_lower_bound() -> None:
    found = steps_until([(0, 0.0), (10, 1.0), (500, 49.9)], 50.0)
    assert found == Steps(500.0, False)
    assert str(found) == ">500"
    assert str(Steps(12.5, True)) == "12.5"


def test_rls_is_a_ratio_or_a_bound_of_one() -> None:
    assert score(Steps(20, True), Steps(80, True)) == Ratio(0.25, "exact")
    assert score(Steps(500, False), Steps(100, True)) == Ratio(5.0, "at_least")
    assert score(Steps(50, True), Steps(500, False)) == Ratio(0.1, "at_most")
    assert score(Steps(500, False), Steps(500, False)) == Ratio(None, "undefined")
    assert score(Steps(5, True), Steps(0, True)) == Ratio(None, "undefined")
    assert score(Steps(0, True), Steps(10, True)) == Ratio(0.0, "exact")


def settings(**changes: object) -> RelearnSettings:
    given = {"points": (0, 5, 60), "rank": 4, "alpha": 8, "learning_rate": 0.01, "batch": 16, "seed": 5}
    return RelearnSettings(**{**given, **changes})  # type: ignore[arg-type]


def test_a_policy_learns_the_recorded_actions_and_is_put_back_bit_for_bit(subject: Subject) -> None:
    policy, before = subject.policy, subject.policy.model.state_dict()
    kept = {name: tensor.clone() for name, tensor in before.items()}
    back: dict[int, float] = {}
    relearn(
        policy,
        subject.data.forget,
        settings(),
        lambda step: back.update({step: 1 - subject.evaluation.forgotten().value}),
    )
    assert list(back) == [0, 5, 60]
    assert back[0] == pytest.approx(1 - subject.after.fc / 100)
    assert back[60] > 0.9 > back[0]
    after = policy.model.state_dict()
    assert list(after) == list(kept)
    assert all(torch.equal(after[name], tensor) for name, tensor in kept.items())


def test_looking_on_the_way_changes_nothing_of_what_is_learned(subject: Subject) -> None:
    ends = []
    for points in ((0, 6), (0, 2, 3, 5, 6)):
        seen: list[torch.Tensor] = []
        weight = subject.policy.model.projector.fc1
        relearn(
            subject.policy,
            subject.data.forget,
            settings(points=points),
            lambda step, seen=seen, weight=weight: seen.append(weight.weight.detach().clone()),
        )
        ends.append(seen[-1])
    assert torch.equal(*ends)


def test_the_attack_compares_with_a_policy_that_never_saw_it(subject: Subject, reference: VlaPolicy) -> None:
    found = attack(subject, reference, settings())
    figures = {figure.name: figure.value for figure in found.figures}
    for name in ("edited", "reference"):
        assert [p["step"] for p in found.details["curves"][name]] == [0, 5, 60]
        assert figures[f"back_{name}_60"] > 90
    speed = found.details["rls"]["back"]
    early = [name for name, taken in speed["steps"].items() if 0 < taken["value"] < 5]
    assert any("give more points" in remark for remark in found.remarks) == bool(early)
    assert speed["threshold"] == pytest.approx((100 - subject.before.fc) / 2)
    if speed["ratio"]["sense"] == "exact":
        assert figures["rls_back_ratio"] == pytest.approx(speed["ratio"]["value"], abs=1e-3)
        assert speed["ratio"]["value"] == pytest.approx(
            speed["steps"]["edited"]["value"] / speed["steps"]["reference"]["value"]
        )
    else:
        assert any("RLS" in remark for remark in found.remarks)


def test_without_a_reference_there_are_steps_and_no_rls(subject: Subject) -> None:
    found = attack(subject, None, settings(points=(0, 1)))
    assert not any("rls" in figure.name for figure in found.figures)
    assert any("no never-saw reference" in remark for remark in found.remarks)
