"""The policy under attack is the edited one, measured as its edit was, and can be the original one for a while."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vlaforget_ros.adapters.lora import LoraWeights
from vlaforget_ros.attacks.subject import Subject, open_subject, weights_replaced
from vlaforget_ros.errors import AdapterError, ErrorCode
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning.request import Request


def test_it_is_measured_as_the_edit_measured_itself(subject: Subject, edited_dir: Path) -> None:
    record = json.loads((edited_dir.parent / "edit.json").read_text())
    now, then = subject.before.row(), record["before"]["metrics"]
    assert then.pop("earlier") == {}  # no earlier requests, and a row without them
    assert now == pytest.approx(then)
    # Merged here, attached there: the same up to rounding.
    assert subject.after.fc == pytest.approx(record["after"]["metrics"]["fc"], abs=3)
    assert subject.after.fc > 50 > subject.before.fc


def test_the_original_is_there_for_a_while_and_the_edit_afterwards(subject: Subject, asked: Request) -> None:
    base = VlaPolicy.load(Path(asked.base)).model.state_dict()
    edited = {name: tensor.clone() for name, tensor in subject.policy.model.state_dict().items()}
    changed = {name for name, tensor in edited.items() if not torch.equal(tensor, base[name])}
    assert changed == {f"{name}.weight" for name in subject.originals}
    with subject.original() as policy:
        assert all(torch.equal(t, base[n]) for n, t in policy.model.state_dict().items())
    assert all(torch.equal(t, edited[n]) for n, t in subject.policy.model.state_dict().items())


def test_an_edit_that_started_from_another_has_that_as_its_original(
    asked: Request, edited: LoraWeights, edited_dir: Path
) -> None:
    again = open_subject(asked.model_copy(update={"start_from": str(edited_dir)}), edited)
    assert again.before.fad == 0.0
    assert again.after.fad == pytest.approx(0.0, abs=0.01)
    assert again.parent is not None


def test_weights_come_back_after_an_error(subject: Subject) -> None:
    name = subject.modules[0]
    weight = subject.policy.model.get_submodule(name).weight
    before = weight.detach().clone()

    def fail() -> None:
        with weights_replaced(subject.policy, {name: torch.zeros_like(before)}):
            assert not weight.any()
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert torch.equal(weight, before)


def test_an_adapter_of_another_base_is_refused(asked: Request, edited: LoraWeights) -> None:
    with pytest.raises(AdapterError) as caught:
        open_subject(asked, replace(edited, base_digest="0" * 64))
    assert caught.value.code == ErrorCode.ADAPTER_BASE_MISMATCH
