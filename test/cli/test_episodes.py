"""`vlaforget episodes` as a person calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from vlaforget_ros.cli.app import app
from vlaforget_ros.episodes import BagSink, EpisodeWriter
from vlaforget_ros.episodes.images import image_message
from vlaforget_ros.episodes.messages import IMAGE, JOINT_STATE, STRING, ns_to_stamp, typestore
from vlaforget_ros.errors import ErrorCode, UnlearningError

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
MONDAY = 1_795_392_000 * SECOND  # 2026-11-23
runner = CliRunner()


def call(*line: str | Path, code: int = 0) -> Result:
    result = runner.invoke(app, ["episodes", *map(str, line)])
    assert result.exit_code == code, result.output
    return result


def refused(*line: str | Path) -> UnlearningError:
    error = call(*line, code=1).exception
    assert isinstance(error, UnlearningError)
    return error


def listed(*line: str | Path) -> list[str]:
    return [e["rollout"] for e in json.loads(call("list", *line, "--json", "-").stdout)["episodes"]]


def write(bag: Path, first: int, start_ns: int) -> None:
    """Two rollouts: a clean success, and one that fails with a violation and an adapter."""
    with EpisodeWriter(bag, start_ns=start_ns) as writer:
        for number in (first, first + 1):
            odd = number % 2 == 1
            writer.begin(f"r{number}", "close it" if odd else "open it", "ad" * 32 if odd else "")
            for k in range(30):
                image = np.full((16, 16, 3), (0, 8 * k, 255), np.uint8)
                writer.frame(image, np.array([0.01 * k, 0, 0, 1], np.float32))
                if odd and k == 20:
                    writer.violation("keep_out/hand_zone", value=0.1, unit="m", severity="STOP")
            writer.end(None if number == 4 else not odd)


@pytest.fixture
def bags(tmp_path: Path) -> Path:
    write(tmp_path / "bags" / "monday", 0, MONDAY)
    write(tmp_path / "bags" / "tuesday", 2, MONDAY + DAY)
    return tmp_path / "bags"


def test_an_index_is_built_once_and_says_so(bags: Path, tmp_path: Path) -> None:
    first = call("index", bags, "--json", tmp_path / "i.json")
    assert "bags: 2 (2 read, 0 unreadable)" in first.stdout
    assert "episodes: 4 (2 with violations, 0 with problems)" in first.stdout
    assert str(bags / ".vlaforget" / "episodes.jsonl") in first.stdout.replace("\n", "")
    document = json.loads((tmp_path / "i.json").read_text())
    assert document["episodes"][1]["violations"][0]["rule"] == "keep_out/hand_zone"
    assert document["episodes"][1]["rate"]["median_hz"] == pytest.approx(10.0)
    assert "indexing" in first.stderr
    again = call("index", bags)
    assert "2 (0 read" in again.stdout
    assert "indexing" not in again.stderr


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ((), ["r0", "r1", "r2", "r3"]),
        (("--violated",), ["r1", "r3"]),
        (("--clean", "--instruction", "open*"), ["r0", "r2"]),
        (("--rule", "keep_out/*", "--until", "2026-11-24"), ["r1"]),
        (("--since", "2026-11-24T01:00+01:00"), ["r2", "r3"]),
        (("--since", "1795478400.5"), ["r3"]),
        (("--adapter", "adadadad"), ["r1", "r3"]),
        (("--adapter", "base"), ["r0", "r2"]),
        (("--outcome", "failure"), ["r1", "r3"]),
        (("--outcome", "aborted"), []),
        (("--damaged",), []),
    ],
)
def test_filters(bags: Path, filters: tuple[str, ...], expected: list[str]) -> None:
    assert listed(bags, *filters) == expected


def test_a_list_for_a_person(bags: Path) -> None:
    table = call("list", bags, "--violated").stdout
    assert "2 of 4 episodes" in table
    assert "2026-11-23 00:00:04" in table
    assert "keep_out/hand_zone" in table
    assert "monday" in table
    nothing = call("list", bags, "--rule", "keepout").stdout
    assert "violated rules: keep_out/hand_zone 2" in " ".join(nothing.split())
    assert refused("list", bags, "--since", "yesterday").code is ErrorCode.UNLEARNING_BAD_REQUEST


def test_damaged_and_unreadable_bags_are_in_the_list(bags: Path) -> None:
    file = bags / "tuesday" / "tuesday_0.mcap"
    file.write_bytes(file.read_bytes()[:-30_000])
    (bags / "noise.mcap").write_bytes(b"noise")
    document: dict[str, Any] = json.loads(call("list", bags, "--json", "-").stdout)
    kinds = {problem["kind"] for problem in document["problems"]}
    assert {"bag_unreadable", "bag_damaged", "end_missing"} <= kinds
    assert listed(bags, "--damaged")[-1:] == [document["episodes"][-1]["rollout"]]
    said = call("list", bags)
    assert "unreadable" in said.stderr
    assert "was not closed" in said.stdout


def test_a_list_where_nothing_may_be_kept(bags: Path) -> None:
    (bags / ".vlaforget").touch()
    result = call("list", bags)
    assert "not kept" in result.stderr
    assert "4 of 4 episodes" in result.stdout
    assert refused("index", bags).code is ErrorCode.UNLEARNING_BAG_UNWRITABLE


def test_a_picture_of_an_episode(bags: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "sheets" / "incident.png"
    assert str(out) in call("show", "r3", bags, "--out", out, "--frames", "12").stdout.replace("\n", "")
    with Image.open(out) as page:
        pixels = np.asarray(page.convert("RGB"))
    shown = {int(c[1]) // 8 for c in np.unique(pixels.reshape(-1, 3), axis=0) if c[0] == 0 and c[2] == 255}
    assert 20 in shown
    assert {0, 29} <= shown
    monkeypatch.chdir(tmp_path)
    call("show", "r1", bags)
    assert (tmp_path / "r1.png").stat().st_size > 10_000


def test_what_cannot_be_shown(bags: Path, tmp_path: Path) -> None:
    assert "candidates: r0, r1, r2, r3" in str(refused("show", "r", bags))
    assert "did you mean r3" in str(refused("show", "r33", bags))
    assert "2 names for 4 numbers" in str(refused("show", "r1", bags, "--names", "dx,dy"))
    (tmp_path / "file").touch()
    assert "--out" in str(refused("show", "r1", bags, "--out", tmp_path / "file" / "x.png"))


def test_a_good_folder_passes_the_check(bags: Path, tmp_path: Path) -> None:
    result = call("check", bags, "--rate", "10", "--json", tmp_path / "c.json")
    assert "4 episodes with 120 frames can be used, 0 frames are lost" in " ".join(result.stdout.split())
    document = json.loads((tmp_path / "c.json").read_text())
    assert [bag["findings"] for bag in document["bags"]] == [[], []]
    assert document["bags"][0]["topics"][0]["messages"] == 60


def test_a_check_that_finds_something_ends_with_1(bags: Path) -> None:
    result = call("check", bags / "monday", "--rate", "20", code=1)
    text = " ".join(result.stdout.replace("│", " ").split())
    assert "rate_off x 2" in text
    assert "nominal rate is 20.00 Hz" in text
    document = json.loads(call("check", bags, "--rate", "20", "--json", "-", code=1).stdout)
    assert [finding["kind"] for finding in document["bags"][1]["findings"]] == ["rate_off"] * 2


def test_a_check_for_a_policy_with_more_cameras(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "bag", cameras=["wrist"], state="joint_states") as writer:
        writer.begin("r0", "open the faucet")
        writer.frame(np.zeros((2, 8, 8, 3), np.uint8), np.zeros(4), state=np.zeros(3))
        writer.end(True)
    call("check", tmp_path / "bag", "--cameras", "wrist", "--state", "joint_states")
    missing = call("check", tmp_path / "bag", "--cameras", "wrist, side", code=1).stdout
    assert "bag has no topic side" in " ".join(missing.replace("│", " ").split())


MAPPING = """
image: /camera/rgb
action: {topic: /joint_command, fields: position}
instruction: {topic: /task}
violations: [{topic: /estop}]
"""


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A bag without any topic of ours: two tasks of 20 frames."""
    types = typestore().types
    place = tmp_path / "foreign" / "teleop"
    place.parent.mkdir()
    with BagSink(place) as sink:
        for topic, msgtype in (("/camera/rgb", IMAGE), ("/joint_command", JOINT_STATE), ("/task", STRING)):
            sink.add_topic(topic, msgtype)
        for k in range(40):
            now = MONDAY + k * SECOND // 10
            header = types["std_msgs/msg/Header"](ns_to_stamp(now), "")
            nothing = np.zeros(0)
            joints = types[JOINT_STATE](header, [], np.array([0.1 * k, 0.0]), nothing, nothing)
            task = types[STRING]("stack the cups" if k < 20 else "clear the table")
            image = image_message(np.full((8, 8, 3), k, np.uint8), now)
            for topic, msgtype, message in (
                ("/task", STRING, task),
                ("/camera/rgb", IMAGE, image),
                ("/joint_command", JOINT_STATE, joints),
            ):
                sink.write(topic, typestore().serialize_cdr(message, msgtype), now)
    return place.parent


def test_bags_of_other_programs_by_a_mapping_file(foreign: Path, tmp_path: Path) -> None:
    mapping = tmp_path / "m.yaml"
    mapping.write_text(MAPPING)
    assert "1 unreadable" in call("index", foreign).stdout
    assert "episodes: 2 (0 with violations" in call("index", foreign, "--mapping", mapping).stdout
    # The index remembers the file.
    document = json.loads(call("list", foreign, "--json", "-").stdout)
    assert [e["instruction"] for e in document["episodes"]] == ["stack the cups", "clear the table"]
    assert document["episodes"][0]["image"]["topic"] == "/camera/rgb"
    call("show", document["episodes"][1]["rollout"], foreign, "--out", tmp_path / "p.png", "--names", "j1,j2")
    assert (tmp_path / "p.png").is_file()
    result = call("check", foreign, "--mapping", mapping, "--json", "-", code=1)
    (bag,) = json.loads(result.stdout)["bags"]
    assert (bag["episodes"], bag["frames"]) == (2, 40)
    assert [(f["kind"], f["place"]) for f in bag["findings"]] == [("topic_missing", "/estop")]
    assert "both" in str(refused("check", foreign, "--mapping", mapping, "--cameras", "wrist"))


@pytest.mark.parametrize("command", ["index", "list", "show", "check"])
def test_help_has_an_example(command: str) -> None:
    assert f"vlaforget episodes {command}" in call(command, "--help").stdout
