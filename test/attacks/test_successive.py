"""A chain of edits in small: each starts from the one before, and earlier ones are measured again."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlaforget_ros.adapters.lora import LoraWeights
from vlaforget_ros.attacks.successive import Link, attack
from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.unlearning import child
from vlaforget_ros.unlearning.request import Request, parse_request


def test_later_edits_start_from_earlier_ones_and_all_are_measured_after_each(
    asked: Request, edited: LoraWeights, subject: object, tmp_path: Path
) -> None:
    started: list[str] = []

    def edit(request: Request, out: Path, report: object) -> Path:
        started.append(request.start_from)
        if request.name == "again":
            raise UnlearningError(ErrorCode.UNLEARNING_GATE_FAILED, "no stage was kept")
        done = child.run(request, out, False, None, lambda: False, lambda event: None)
        return Path(done["directory"])

    fields = asked.model_dump(mode="json")
    other = {"forget": {"rollout_ids": ["near-*"]}, "boundary": None, "counterfactual": [], "seed": 8}
    second = parse_request({**fields, **other, "name": "other"})
    links = [
        Link("own", asked),
        Link("other", second),
        Link("again", asked.model_copy(update={"name": "again"})),
    ]
    found = attack(links, tmp_path, edited, edit=edit)

    assert [Path(text).is_dir() for text in started] == [True, True]
    assert started[0].endswith("1-own/adapter")
    assert started[1].endswith("2-other/adapter")
    table = found.details["table"]
    assert [(row["after"], row["request"]) for row in table] == [
        (1, "own"),
        (2, "own"),
        (2, "other"),
        (3, "own"),
        (3, "other"),
        (3, "again"),
    ]
    figures = {figure.name: figure.value for figure in found.figures}
    assert figures["fc_own_after_1"] > 50
    assert figures["fc_lost_own"] == pytest.approx(
        figures["fc_own_after_1"] - figures["fc_own_after_3"], abs=0.02
    )
    assert figures["fc_other_after_2"] > 50
    assert set(figures) >= {"fc_own_after_3", "fc_other_after_3", "fc_again_after_3", "fc_lost_other"}
    # It was gone already, so the last edit had nothing to keep: the adapter of the one before stays.
    assert found.details["refused"] == [
        "again changed nothing: [304 UNLEARNING_GATE_FAILED] no stage was kept"
    ]
    assert figures["fc_again_after_3"] == figures["fc_own_after_3"] == figures["fc_own_after_2"]
    assert not any(name.startswith("bsr") for name in figures)


def test_a_chain_needs_two_requests_of_one_base(asked: Request, tmp_path: Path) -> None:
    other = asked.model_copy(update={"base": str(tmp_path)})
    for links in (
        [Link("own", asked)],
        [Link("own", asked), Link("own", asked)],
        [Link("a", asked), Link("b", other)],
    ):
        with pytest.raises(UnlearningError) as caught:
            attack(links, tmp_path)
        assert caught.value.code == ErrorCode.UNLEARNING_BAD_REQUEST
