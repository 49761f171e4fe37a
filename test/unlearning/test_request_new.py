"""`vlaforget request new`, `show` and `check`: by options, by questions, and what an edit makes of the file."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from edit_parts import BOUNDARY, FORGET, RIGHT, wandering_block
from typer.testing import CliRunner

from vlaforget_ros.cli.app import app
from vlaforget_ros.episodes import EpisodeWriter, scan_episodes
from vlaforget_ros.episodes.catalogue import known
from vlaforget_ros.errors import ErrorCode, UnlearningError, VlaForgetError
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning import child
from vlaforget_ros.unlearning.request import read_request
from vlaforget_ros.unlearning.sources import gather

runner = CliRunner()
RULE = "keep_out/hand_zone"
BAD = {"bad-0": 14, "bad-1": 14, "bad-2": 14}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def options(bag: Path, base_dir: Path) -> list[str]:
    return ["request", "new", "--bags", str(bag), "--base", str(base_dir), "--forget-rule", RULE, "--yes"]


def run(*arguments: str, text: str | None = None) -> Result:
    result = runner.invoke(app, list(arguments), input=text)
    if result.exception is not None and not isinstance(result.exception, SystemExit | VlaForgetError):
        raise result.exception
    return result


def refused(*arguments: str) -> VlaForgetError:
    error = run(*arguments).exception
    assert isinstance(error, VlaForgetError)
    return error


@pytest.mark.parametrize("command", ["new", "show", "check"])
def test_the_help_teaches_by_an_example(command: str) -> None:
    shown = run("request", command, "--help").output
    assert "Example" in shown
    assert f"vlaforget request {command}" in shown


def test_by_options(options: list[str], bag: Path, base_dir: Path) -> None:
    result = run(*options, "--reason", "a sticker", "--requester", "Ada", "--json", "new.json")
    assert result.exit_code == 0, result.output
    request = read_request(Path("hand_zone.yaml"))
    assert (request.name, request.reason, request.requester) == ("hand_zone", "a sticker", "Ada")
    assert [Path(b).resolve() for b in request.bags] == [bag.resolve()]
    assert Path(request.base).resolve() == base_dir.resolve()
    assert (request.forget.violation_rules, request.forget.before_s, request.forget.after_s) == (
        (RULE,),
        3.0,
        1.0,
    )
    assert request.selected is not None
    assert request.selected.forget == BAD
    assert set(request.selected.retain) == {*(f"good-{n}" for n in range(3, 8)), "near-8", "near-9"}
    # As many neighbours as the fewest that are proposed, none of them violated.
    assert request.boundary is not None
    assert set(request.boundary.rollout_ids) == set(request.selected.boundary)
    assert len(request.selected.boundary) == 4
    assert not any(name.startswith("bad") for name in request.selected.boundary)
    assert [source.kind for source in request.counterfactual] == ["clean_successes", "transplant"]
    text = Path("hand_zone.yaml").read_text()
    assert "# what is undesired (D_f)" in text
    document = json.loads(Path("new.json").read_text())
    assert document["digest"] == request.digest
    assert document["sets"]["forget"]["rollouts"] == BAD
    assert f"digest {request.digest}" in result.output
    for neighbour in document["neighbours"]:
        assert f"- {neighbour['rollout_id']}  # {neighbour['distance']:.3f} from bad-" in text
        assert neighbour["rollout_id"] in result.output


def test_every_option_reaches_the_file(options: list[str]) -> None:
    given = {
        "--out": "made/other.yaml", "--name": "other", "--before": "0.3", "--after": "0", "--retain-outcome": "any",
        "--retain-instruction": FORGET, "--boundary": BOUNDARY, "--counterfactual": f"neighbour:{BOUNDARY}",
        "--method": "npo", "--seconds": "20", "--seed": "7", "--forget-object": "faucets", "--since": "0.5",
        "--until": "1970-01-02T00:00:00Z", "--forget-adapter": "base", "--start-from": "sticker",
        "--earlier": "first.yaml",
    }  # fmt: skip
    Path("first.yaml").write_text("base: elsewhere")
    assert run(*options, *(part for pair in given.items() for part in pair)).exit_code == 0
    values = yaml.safe_load(Path("made/other.yaml").read_text())
    assert values["forget"] == {
        "violation_rules": [RULE], "objects": ["faucets"], "adapters": ["base"], "since": "0.5",
        "until": "1970-01-02T00:00:00Z", "before_s": 0.3, "after_s": 0.0,
    }  # fmt: skip
    request = read_request(Path("made/other.yaml"))
    assert (request.method, request.seed, request.budget.seconds) == ("npo", 7, 20.0)
    assert request.start_from == "sticker"
    assert [Path(earlier).resolve() for earlier in request.earlier] == [Path("first.yaml").resolve()]
    assert (request.retain.outcome, request.retain.instructions) == ("any", (FORGET,))
    assert (request.counterfactual[0].kind, request.counterfactual[0].instruction) == ("neighbour", BOUNDARY)
    assert request.selected is not None
    assert request.selected.forget == dict.fromkeys(BAD, 4)
    assert set(request.selected.boundary) == {"near-8", "near-9"}


def test_an_adapter_to_start_from_may_be_a_folder(options: list[str]) -> None:
    Path("first").mkdir()
    assert run(*options, "--start-from", "first", "--boundary", "none").exit_code == 0
    text = Path("hand_zone.yaml").read_text()
    assert f"# adapter to start from\nstart_from: {Path('first').resolve()}\n" in text
    error = refused(*options, "--earlier", "hand_zone.yaml", "--force")
    assert error.code is ErrorCode.UNLEARNING_BAD_REQUEST
    assert "`earlier` goes with `start_from`" in error.message


def test_an_index_saves_reading_the_bags_unless_they_have_changed(
    options: list[str], bag: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = [*options, "--boundary", "none"]
    shutil.copytree(bag, "bags/monday")
    without[without.index(str(bag))] = "bags"
    assert run(*without).exit_code == 0
    plain = read_request(Path("hand_zone.yaml"))
    assert run("episodes", "index", "bags").exit_code == 0
    read: list[Path] = []
    monkeypatch.setattr(
        known, "scan_episodes", lambda bag, topics: read.append(bag) or scan_episodes(bag, topics)
    )
    result = run(*without, "--force")
    assert "1 of 1 bags as the index knows them" in result.output
    assert not read
    assert read_request(Path("hand_zone.yaml")) == plain
    # A bag alone is in the index of its folder; other topics are another reading.
    without[without.index("bags")] = "bags/monday"
    assert run(*without, "--force").exit_code == 0
    assert not read
    with EpisodeWriter(Path("bags/tuesday")) as writer:
        writer.begin("good-20", FORGET)
        for image in wandering_block(3, False):
            writer.frame(image, RIGHT)
        writer.end(True)
    file = next(Path("bags/monday").glob("*.mcap"))
    os.utime(file, ns=(1, 1))
    without[without.index("bags/monday")] = "bags"
    assert run(*without, "--force").exit_code == 0
    assert [path.name for path in read] == ["monday", "tuesday"]


def test_nothing_is_replaced_without_being_told(options: list[str]) -> None:
    Path("hand_zone.yaml").write_text("mine")
    error = refused(*options)
    assert (error.code, error.value) == (ErrorCode.UNLEARNING_BAD_REQUEST, "hand_zone.yaml")
    assert Path("hand_zone.yaml").read_text() == "mine"
    assert run(*options, "--force", "--boundary", "none").exit_code == 0
    assert read_request(Path("hand_zone.yaml")).boundary is None


def test_the_same_answers_make_the_same_file(options: list[str]) -> None:
    for name in ("a.yaml", "b.yaml"):
        assert run(*options, "--out", name).exit_code == 0
    assert Path("a.yaml").read_bytes() == Path("b.yaml").read_bytes()


def test_questions_offer_what_the_bags_hold(bag: Path, base_dir: Path) -> None:
    answers = [
        str(bag), "1", "any", "", "0.5", "", "any", str(base_dir), "none", "transplant", "mpo", "npo", "",
        "it went where a hand may be", "Ada", "asked.yaml", "y",
    ]  # fmt: skip
    result = run("request", "new", "--ask", text="\n".join(answers) + "\n")
    assert result.exit_code == 0, result.output
    assert "'mpo' is none of these" in result.output
    assert f"1 {RULE}" in result.output
    request = read_request(Path("asked.yaml"))
    assert (request.forget.violation_rules, request.forget.before_s, request.forget.after_s) == (
        (RULE,),
        3.0,
        0.5,
    )
    assert (request.name, request.method, request.requester) == ("hand_zone", "npo", "Ada")
    assert request.retain.outcome == "success"
    assert [source.kind for source in request.counterfactual] == ["transplant"]


def test_what_was_given_is_not_asked_and_a_no_writes_nothing(options: list[str]) -> None:
    given = [option for option in options if option != "--yes"]
    answers = ["any", "", "", "", "any", "none", "auto", "", "", "", "", "", "n"]
    result = run(*given, "--ask", text="\n".join(answers) + "\n")
    assert result.exit_code == 1
    assert "Forget which rule" not in result.output
    assert "Folder of the base" not in result.output
    assert "write hand_zone.yaml?" in result.output
    assert "nothing was written" in result.output
    assert not Path("hand_zone.yaml").exists()


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"--forget-rule": None}, 300, "keep_out/hand_zone (3 episodes)"),
        ({"--base": None}, 300, "--base"),
        ({"--base": "nowhere"}, 207, "nowhere"),
        ({"--forget-rule": "keep_out/hand_zne"}, 300, "did you mean keep_out/hand_zone"),
        ({"--forget-object": "drawer"}, 300, "no instruction of the bags names it"),
        ({"--forget-rule": "speed/*"}, 302, "forget set is empty"),
        ({"--retain-rollout": "none-*"}, 303, "retain set is empty"),
        ({"--counterfactual": "transplnt"}, 300, "unknown source"),
        ({"--since": "2026-11-20T14:05"}, 300, "no time zone"),
        ({"--bags": "nowhere"}, 301, "no such folder"),
        ({"--cameras": "wrist"}, 301, "bag has no topic wrist"),
    ],
)
def test_what_cannot_be_meant(
    options: list[str], change: dict[str, str | None], code: int, says: str
) -> None:
    pairs = {**dict(zip(options[2:-1:2], options[3:-1:2], strict=True)), **change}
    given = [part for option, value in pairs.items() if value is not None for part in (option, value)]
    error = refused("request", "new", "--yes", *given)
    assert int(error.code) == code
    assert says in str(error)
    assert not list(Path().glob("*.yaml"))


def test_a_request_is_shown_and_checked(options: list[str]) -> None:
    run(*options)
    for command in ("show", "check"):
        result = run("request", command, "hand_zone.yaml", "--json", f"{command}.json")
        assert result.exit_code == 0, result.output
        document = json.loads(Path(f"{command}.json").read_text())
        assert document["sets"]["forget"]["rollouts"] == BAD
        assert document["changes"] == []
        assert document["selected"]["bags"][0]["sha256"] in result.output
    assert "bags and sets are those that the request names" in result.output


def test_a_request_without_hashes_can_be_shown_and_checked(request_text: str) -> None:
    Path("plain.yaml").write_text(request_text)
    for command in ("show", "check"):
        assert "an edit takes what it finds" in run("request", command, "plain.yaml").output


def test_a_changed_bag_is_noticed_by_check_and_by_the_edit(
    options: list[str], bag: Path, base_dir: Path
) -> None:
    assert run(*options, "--boundary", "none").exit_code == 0
    (bag / "more_1.mcap").write_bytes(b"")
    with EpisodeWriter(Path("more")) as writer:
        writer.begin("good-99", FORGET)
        for image in wandering_block(99, False):
            writer.frame(image, RIGHT, None)
        writer.end(True)
    (bag / "metadata.yaml").unlink()
    next(Path("more").glob("*.mcap")).rename(bag / "more_1.mcap")
    error = refused("request", "check", "hand_zone.yaml", "--json", "changed.json")
    assert error.message == "data changed since the request was made"
    assert f"bag {read_request(Path('hand_zone.yaml')).bags[0]} has another content" in error.value
    assert "retain: new good-99" in error.value
    assert len(json.loads(Path("changed.json").read_text())["changes"]) == 2
    with pytest.raises(UnlearningError, match="data changed since the request was made"):
        gather(read_request(Path("hand_zone.yaml")), VlaPolicy.load(base_dir))


MAPPING = """
image: image
action: {topic: action, fields: action}
instruction: {topic: rollout, field: instruction}
outcome: {topic: outcome, field: success}
violations: [{topic: safety/violation, rule_field: rule}]
cut: {gap_s: 0.5}
"""


def test_bags_with_other_topics_are_read_by_a_mapping_that_is_pinned_too(options: list[str]) -> None:
    Path("robot.yaml").write_text(MAPPING)
    chosen = ["--mapping", "robot.yaml", "--out", "in/mapped.yaml", "--boundary", "none"]
    result = run(*options, *chosen, "--counterfactual", "none")
    assert result.exit_code == 0, result.output
    request = read_request(Path("in/mapped.yaml"))
    assert Path(request.mapping).resolve() == Path("robot.yaml").resolve()
    assert request.selected is not None
    assert list(request.selected.forget.values()) == [14, 14, 14]
    assert run("request", "check", "in/mapped.yaml").exit_code == 0
    Path("robot.yaml").write_text(MAPPING.replace("fields: action", "fields: action, scale: 2.0"))
    error = refused("request", "check", "in/mapped.yaml")
    assert "robot.yaml has another content" in error.value


def test_one_recording_in_two_bags_under_two_names_is_warned_of(options: list[str]) -> None:
    with EpisodeWriter(Path("copy")) as writer:
        writer.begin("copied", FORGET)
        for image in wandering_block(0, True):
            writer.frame(image, RIGHT)
        writer.end(True)
    result = run(*options, "--bags", "copy", "--boundary", "none")
    assert result.exit_code == 0
    assert "warning (leakage): 100% of forget episode bad-0" in result.output
    assert "is in kept episode copied" in result.output


def test_a_request_made_so_is_carried_out(options: list[str], tmp_path: Path) -> None:
    assert run(*options, "--method", "grad_diff", "--counterfactual", "none").exit_code == 0
    file = Path("hand_zone.yaml")
    small = "steps: 3, rank: 4, lora_alpha: 8, batch_forget: 4, batch_retain: 4, batch_boundary: 4"
    file.write_text(f"{file.read_text()}parameters: {{{small}}}\nthreads: 1\n")
    request = read_request(file)
    done = child.run(request, tmp_path / "edit", False, None, lambda: False, lambda event: None)
    record = json.loads(Path(done["report"]).read_text())
    assert record["request_sha256"] == request.digest
    assert record["request"]["selected"]["forget"] == BAD
    assert done["provenance"]["request_sha256"] == request.digest
