"""Requests: what is read, what is refused with which remedy, and what the hash covers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from vlaforget_ros.episodes.mapped.mapping import TopicMapping
from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.unlearning.request import read_request

MINIMAL = """
base: models/tiny
bags: [incident]
forget: {violation_rule: keep_out/hand_zone, before_s: 2.0}
retain: {outcome: success, has_violation: false}
"""


def refused(text: str) -> UnlearningError:
    with pytest.raises(UnlearningError) as error:
        read_request(text)
    assert error.value.code == ErrorCode.UNLEARNING_BAD_REQUEST
    return error.value


def test_defaults_and_selections() -> None:
    request = read_request(MINIMAL)
    assert request.method == "vla_forget"
    assert request.forget.violation_rules == ("keep_out/hand_zone",)
    assert (request.budget.seconds, request.budget.memory_mb) == (240, None)
    assert request.parameters.rank == 16
    assert request.boundary is None


def test_relative_paths_of_a_file_are_relative_to_it(tmp_path: Path) -> None:
    path = tmp_path / "request.yaml"
    path.write_text(MINIMAL)
    request = read_request(path)
    assert request.base == str(tmp_path / "models/tiny")
    assert request.bags == (str(tmp_path / "incident"),)
    assert read_request(MINIMAL).bags == ("incident",)
    assert read_request(str(path)) == request


def test_the_hash_covers_every_field_and_not_the_order() -> None:
    digest = read_request(MINIMAL).digest
    shuffled = "\n".join(reversed(MINIMAL.strip().splitlines())) + "\n"
    assert read_request(shuffled).digest == digest
    assert read_request(MINIMAL + "seed: 0\n").digest == digest  # a default, said aloud
    changes = [
        "seed: 1",
        "reason: x",
        "name: y",
        "parameters: {rank: 8}",
        "gates: {fc_min: 90}",
        "threads: 3",
    ]
    digests = {read_request(MINIMAL + change + "\n").digest for change in changes}
    assert len(digests | {digest}) == len(changes) + 1


@pytest.mark.parametrize(
    ("change", "where", "remedy"),
    [
        ("metod: npo", "metod", "did you mean method"),
        ("method: vla_forgt", "method", "did you mean vla_forget"),
        ("parameters: {lamda_f: 1}", "parameters.lamda_f", "did you mean lambda_f"),
        ("gates: {fcmin: 1}", "gates.fcmin", "did you mean fc_min"),
        ("budget: {second: 1}", "budget.second", "did you mean seconds"),
        ("boundary: {outcom: any}", "boundary.outcom", "did you mean outcome"),
        ("counterfactual: [{kind: transplant, jitter: 1}]", "counterfactual.0.jitter", "jitter_px"),
        ("seed: -1", "seed", "correct seed"),
        ("budget: {seconds: .inf}", "budget.seconds", "correct"),
        ("parameters: {max_rounds: 7}", "parameters.max_rounds", "correct"),
        ("parameters: {stages: [language, visual]}", "parameters.stages", "correct"),
        ("counterfactual: [{kind: neighbour}]", "counterfactual.0", "correct"),
        ("bags: []", "bags", "correct"),
        ("cameras: [image_wrist, /image_wrist]", "cameras", "correct"),
        ("cameras: [a b]", "cameras", "correct"),
        ("cameras: image_wrist,", "cameras", "correct"),
        ("state: joint states", "state", "correct"),
    ],
)
def test_bad_fields_are_named_with_a_remedy(change: str, where: str, remedy: str) -> None:
    key = change.partition(":")[0]
    kept = [line for line in MINIMAL.strip().splitlines() if not line.startswith(f"{key}:")]
    error = refused("\n".join([*kept, change]) + "\n")
    assert f"bad request: {where}" in error.message
    assert remedy in error.remedy


def test_a_missing_field_is_named() -> None:
    error = refused(MINIMAL.replace("forget:", "#forget:"))
    assert "forget: Field required" in error.message


@pytest.mark.parametrize(("text", "what"), [("a: [\n", "is not YAML"), ("- 1\n- 2\n", "must be a mapping")])
def test_what_is_no_request(text: str, what: str) -> None:
    assert what in refused(text).message


def test_a_missing_file_and_binary_rubbish(tmp_path: Path) -> None:
    assert "cannot be read" in refused(str(tmp_path / "none.yaml")).message
    rubbish = tmp_path / "r.yaml"
    rubbish.write_bytes(b"\xff\xfe\x00\x81")
    assert "cannot be read" in refused(str(rubbish)).message


def test_yaml_cannot_make_objects() -> None:
    assert "is not YAML" in refused("base: !!python/object/apply:os.system [echo]\n").message


def test_cameras_are_a_list_or_the_text_of_the_policy_nodes_parameter() -> None:
    for text in ("[image_wrist, /side/image]", "image_wrist, /side/image"):
        assert read_request(MINIMAL + f"cameras: {text}\n").cameras == ("image_wrist", "/side/image")
    assert read_request(MINIMAL + "cameras: image_wrist\n").topics.cameras == ("image_wrist",)


def test_what_was_added_later_is_in_the_digest_only_where_it_is_set() -> None:
    """Requests that name none have the digest that they had before there were any: finished edits can be resumed."""
    plain = read_request(MINIMAL)
    values = plain.model_dump(mode="json")
    del values["cameras"], values["state"], values["mapping"], values["gates"]["merge_loss_max"]
    assert values["budget"]["memory_mb"] is None
    values["budget"]["memory_mb"] = 4096.0  # what it was where none was named
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    assert plain.digest == hashlib.sha256(text.encode()).hexdigest()
    lines = (
        "cameras: [a]\n",
        "cameras: [b]\n",
        "state: a\n",
        "mapping: a.yaml\n",
        "gates: {merge_loss_max: 5}\n",
        "budget: {memory_mb: 100}\n",
    )
    assert len({plain.digest, *(read_request(MINIMAL + line).digest for line in lines)}) == 7


MAPPING = """
image: camera
cameras: [wrist]
state: {topic: joints, fields: position}
action: {topic: cmd}
instruction: go
"""


def test_a_mapping_file_says_what_the_topics_of_the_bags_mean(tmp_path: Path) -> None:
    (tmp_path / "mapping.yaml").write_text(MAPPING)
    path = tmp_path / "request.yaml"
    path.write_text(MINIMAL + "mapping: mapping.yaml\n")
    request = read_request(path)
    assert request.mapping == str(tmp_path / "mapping.yaml")
    assert isinstance(request.topics, TopicMapping)
    assert request.shown == (("wrist",), "joints")
    assert "stand in the `mapping` file" in refused(MINIMAL + "mapping: m.yaml\nstate: joints\n").message
    (tmp_path / "mapping.yaml").write_text("image: 3")
    with pytest.raises(UnlearningError, match="bad mapping: image"):
        _ = request.topics


def test_another_content_of_the_mapping_file_makes_another_request(tmp_path: Path) -> None:
    mapping, path = tmp_path / "mapping.yaml", tmp_path / "request.yaml"
    mapping.write_text(MAPPING)
    pins = (
        "selected: {bags: [{sha256: "
        + "a" * 64
        + ", size: 1}], mapping: "
        + "b" * 64
        + ", forget: {}, retain: {}}\n"
    )
    digests = {}
    for name, more in (("open", ""), ("pinned", pins)):
        path.write_text(MINIMAL + "mapping: mapping.yaml\n" + more)
        digests[name] = read_request(path).digest
    mapping.write_text(MAPPING + "namespace: arm\n")
    assert read_request(path).digest == digests["pinned"], (
        "what it pins is in the digest, and an edit compares it"
    )
    path.write_text(MINIMAL + "mapping: mapping.yaml\n")
    assert read_request(path).digest != digests["open"]
    mapping.write_text(MAPPING)
    assert read_request(path).digest == digests["open"]
