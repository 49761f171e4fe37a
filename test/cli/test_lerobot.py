"""``vlaforget episodes export | import`` as a person meets them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from vlaforget_ros.cli import lerobot
from vlaforget_ros.episodes import EpisodeWriter, TopicMap, read_episodes
from vlaforget_ros.episodes.lerobot.conversion import import_dataset
from vlaforget_ros.episodes.lerobot.reading import LeRobotReader, read_lerobot
from vlaforget_ros.errors import ErrorCode, UnlearningError

DATA = Path(__file__).parents[1] / "data" / "lerobot"
WITH_ALL = TopicMap(cameras=("image_wrist",), state="policy_state")
ARRAYS = ("images", "actions", "states", "stamps_ns")
FACTS = ("rollout_id", "instruction", "adapter_digest", "success", "phase", "violations")
app = typer.Typer()
lerobot.register(app)
runner = CliRunner()


def run(*arguments: object) -> str:
    result = runner.invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    """Three rollouts; r1 violates and fails."""
    y, x = np.mgrid[:16, :16] * 16
    with EpisodeWriter(tmp_path / "bag", cameras=["image_wrist"], state="policy_state") as writer:
        for number in range(3):
            writer.begin(f"r{number}", ("open the faucet", "close the drawer")[number % 2], "ad" * 32)
            for frame in range(6):
                image = np.stack([x, y, np.full_like(x, 20 * frame)], -1).astype(np.uint8)
                action = np.array([frame, number, 0.1], np.float32)
                writer.frame([image, 255 - image], action, state=np.array([frame / 3, number / 7]))
                if (number, frame) == (1, 4):
                    writer.violation("keep_out/hand", value=0.1, unit="m", message="inside", severity="STOP")
            writer.end(number != 1)
    return tmp_path / "bag"


def test_out_and_back_nothing_is_lost(bag: Path, tmp_path: Path) -> None:
    report = tmp_path / "out.json"
    views = ("--cameras", "image_wrist", "--state", "policy_state")
    run("export", bag, "--out", tmp_path / "set", "--images", *views, "--json", report)
    said = json.loads(report.read_text())
    assert (said["episodes"], said["frames"], said["tasks"], said["fps"]) == (3, 18, 2, 10)
    assert said["problems"] == []
    features = ("--cameras", "image,image_wrist", "--state", "observation.state")
    run("import", tmp_path / "set", "--out", tmp_path / "back", *features, "--json", report)
    assert json.loads(report.read_text())["topics"] == ["image", "image_wrist", "policy_state"]
    before, after = (read_episodes(path, WITH_ALL) for path in (bag, tmp_path / "back"))
    assert after.problems == ()
    for one, other in zip(before.episodes, after.episodes, strict=True):
        for name in ARRAYS:
            assert np.array_equal(getattr(one, name), getattr(other, name)), name
        for name in FACTS:
            assert getattr(one, name) == getattr(other, name), name


def test_a_folder_of_bags_and_a_selection(bag: Path, tmp_path: Path) -> None:
    run("export", tmp_path, "--out", tmp_path / "set", "--outcome", "success", "--fps", 5)
    episodes = read_lerobot(tmp_path / "set").episodes
    assert [e.rollout_id for e in episodes] == ["r0", "r2"]
    info = json.loads((tmp_path / "set" / "meta" / "info.json").read_text())
    assert (info["fps"], info["total_tasks"]) == (5, 1)
    with pytest.raises(UnlearningError, match="no episode is selected"):
        run("export", bag, "--out", tmp_path / "none", "--instruction", "dance")
    assert not (tmp_path / "none").exists()


def test_frames_off_the_rate_are_said(bag: Path, tmp_path: Path) -> None:
    assert "3 episodes do not run at 7 frames" in run("export", bag, "--out", tmp_path / "set", "--fps", 7)


def test_a_data_set_of_lerobot_becomes_a_bag(tmp_path: Path) -> None:
    """Two cameras in AV1, scaled; the second rollout is moved behind the first, as both begin at 0."""
    run("import", DATA / "video", "--out", tmp_path / "bag", "--cameras", "front,wrist", "--size", "24x32")
    report = read_episodes(tmp_path / "bag", TopicMap(cameras=("image_wrist",)))
    assert report.problems == ()
    assert [len(e) for e in report.episodes] == [6, 4, 5]
    direct = read_lerobot(DATA / "video", cameras=("front", "wrist"), size=(24, 32)).episodes
    last = 0
    for one, other in zip(direct, report.episodes, strict=True):
        assert np.array_equal(one.images, other.images)
        assert np.array_equal(one.actions, other.actions)
        assert np.array_equal(np.diff(one.stamps_ns), np.diff(other.stamps_ns))
        assert (one.success, one.instruction) == (other.success, other.instruction)
        assert other.stamps_ns[0] > last
        last = int(other.stamps_ns[-1])


def test_only_some_episodes(tmp_path: Path) -> None:
    run("import", DATA / "image", "--out", tmp_path / "bag", "--episodes", "2,0:1", "--pictures", "raw")
    assert sorted(len(e) for e in read_episodes(tmp_path / "bag").episodes) == [5, 6]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--size", "big"), "HEIGHTxWIDTH"),
        (("--episodes", "one"), "3,7,9"),
        (("--storage", "zip"), "mcap, sqlite3"),
        (("--cameras", "back"), "no such camera"),
        (("--topics", "image_wrist"), "another number of topics"),
    ],
)
def test_arguments_that_make_no_sense(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(UnlearningError, match=words) as caught:
        run("import", DATA / "image", "--out", tmp_path / "bag", *arguments)
    assert caught.value.code == ErrorCode.UNLEARNING_BAD_REQUEST
    assert not (tmp_path / "bag").exists()


def test_nothing_is_overwritten(bag: Path, tmp_path: Path) -> None:
    for arguments in (("export", bag), ("import", DATA / "image")):
        with pytest.raises(UnlearningError, match="exists") as caught:
            run(*arguments, "--out", bag)
        assert caught.value.code == ErrorCode.UNLEARNING_BAG_UNWRITABLE
    assert len(read_episodes(bag).episodes) == 3


def test_a_damaged_data_set_is_no_bag(tmp_path: Path) -> None:
    with pytest.raises(UnlearningError, match="no LeRobot data set"):
        run("import", tmp_path, "--out", tmp_path / "bag")


def test_a_bag_that_is_not_finished_does_not_stay(tmp_path: Path) -> None:
    reader = LeRobotReader(DATA / "image")

    def stop(done: int, total: int, note: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_dataset(reader, tmp_path / "bag", update=stop)
    assert not (tmp_path / "bag").exists()
