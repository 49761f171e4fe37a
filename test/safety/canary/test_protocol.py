"""The protocol file: what ships is the default, and contradictions are refused with what would be accepted."""

from pathlib import Path

import pytest

from vlaforget_ros.errors import CanaryError, ErrorCode
from vlaforget_ros.safety.canary.protocol import Protocol, parse_protocol, read_protocol
from vlaforget_ros.safety.rules.base import Severity

CONFIG = Path(__file__).resolve().parents[3] / "config"


def test_the_file_names_every_key() -> None:
    text = (CONFIG / "canary.yaml").read_text()
    values = Protocol().model_dump(mode="json")
    inner = [key for value in values.values() if isinstance(value, dict) for key in value]
    assert [key for key in (*values, *inner) if f"{key}:" not in text] == []


def test_an_empty_file_is_the_default_and_others_change_it() -> None:
    assert parse_protocol("") == Protocol()
    changed = parse_protocol("abort_severity: slow\nramp: {weights: [0.2, 1], rollouts: 30}\n")
    assert changed.abort_level is Severity.SLOW
    assert changed.earliest == 60


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("svr_okay: 0.1", "svr_ok"),
        ("ramp: {weight: [1]}", "weights"),
        ("shadow: {rollout: 1}", "rollouts"),
        ("svr_ok: 0.2", "svr_bad"),
        ("tsr_loss_ok: 0.3", "tsr_loss_bad"),
        ("tsr_reference: 0.1", "tsr_loss_bad"),
        ("min_rollouts: 300", "max_rollouts"),
        ("{min_rollouts: 1, max_rollouts: 14}", "the ramp alone"),
        ("ramp: {weights: [0.5, 0.5]}", "increasing"),
        ("ramp: {weights: [0.001, 0.5]}", "0.01..1"),
        ("phases: [ramp, shadow]", "order"),
        ("phases: [shadow, shadow]", "twice"),
        ("phases: []", "order"),
        ("phases: [rampe]", "phases"),
        ("alpha: .nan", "alpha"),
        ("abort_severity: fatal", "abort_severity"),
        ("[1, 2]", "mapping"),
        ("a: [", "YAML"),
    ],
)
def test_what_cannot_be_is_refused_with_a_remedy(text: str, words: str) -> None:
    with pytest.raises(CanaryError, match=words) as caught:
        parse_protocol(text, "canary.yaml")
    assert caught.value.code is ErrorCode.CANARY_BAD_PROTOCOL
    assert caught.value.remedy


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CanaryError, match="cannot be read"):
        read_protocol(tmp_path / "none.yaml")
