"""Reading LeRobot data sets: two that LeRobot itself wrote (test/data/lerobot), and variants of them."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlaforget_ros.episodes import TopicMap, read_episodes, read_many, scan_episodes
from vlaforget_ros.episodes.folders import find_bags
from vlaforget_ros.episodes.lerobot.reading import LeRobotReader, read_lerobot
from vlaforget_ros.episodes.selection import Selection, select
from vlaforget_ros.errors import ErrorCode, UnlearningError

DATA = Path(__file__).parents[1] / "data" / "lerobot"
IMAGE, VIDEO, EARLIER = DATA / "image", DATA / "video", DATA / "video_v21"
BOTH = ("front", "wrist")


def _made() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lerobot_made", DATA / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


made = _made()


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    error = np.mean((first.astype(np.float64) - second) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(IMAGE, tmp_path / "set"))


def edit_info(folder: Path, **changes: Any) -> None:
    path = folder / "meta" / "info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_rows(folder: Path, **columns: pa.Array) -> None:
    path = folder / "data" / "chunk-000" / "file-000.parquet"
    table = pq.read_table(path)
    for name, values in columns.items():
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, values)
        else:
            table = table.append_column(name, values)
    pq.write_table(table, path)


def test_images_that_lerobot_wrote_are_read_exactly() -> None:
    report = read_lerobot(IMAGE, state="observation.state")
    assert report.problems == ()
    assert [(len(e), e.instruction) for e in report.episodes] == made.EPISODES
    assert [e.success for e in report.episodes] == [True, False, True]
    for number, episode in enumerate(report.episodes):
        frames = range(len(episode))
        assert np.array_equal(episode.images, [made.picture(number, f, 0) for f in frames])
        assert np.array_equal(episode.actions, [made.action(number, f) for f in frames])
        assert episode.actions.dtype == np.float32
        assert np.array_equal(episode.states, [[number, f, 0.5] for f in frames])
        # 0.1 s as float32 is not 0.1 s: the stamps are those of the rate.
        assert np.array_equal(np.diff(episode.stamps_ns), np.full(len(episode) - 1, 100_000_000))
        assert (episode.adapter_digest, episode.violations, episode.dropped_frames) == ("", (), 0)


@pytest.mark.parametrize(("folder", "cameras"), [(VIDEO, BOTH), (EARLIER, BOTH[:1])])
def test_video_that_lerobot_wrote_is_read_frame_by_frame(folder: Path, cameras: tuple[str, ...]) -> None:
    report = read_lerobot(folder, cameras=cameras)
    assert report.problems == ()
    assert [len(e) for e in report.episodes] == [length for length, _ in made.EPISODES]
    for number, episode in enumerate(report.episodes):
        assert episode.states is None
        for frame, camera in np.ndindex(len(episode), len(cameras)):
            # The patch has moved on in every frame: a neighbour would be far off.
            seen = episode.view(camera)[frame]
            right = psnr(seen, made.picture(number, frame, camera))
            others = [f for f in range(len(episode)) if f != frame]
            assert right > 27
            assert all(psnr(seen, made.picture(number, other, camera)) < right - 5 for other in others)


def test_a_data_set_is_read_where_a_bag_is_expected() -> None:
    topics = TopicMap(cameras=("image_wrist",), state="policy_state")
    with_wrist = read_episodes(VIDEO, topics)
    assert with_wrist.episodes[0].images.shape == (6, 2, 48, 64, 3)
    assert with_wrist.episodes[0].states is not None
    only = read_episodes(IMAGE)
    assert [len(e) for e in only.episodes] == [6, 4, 5]
    assert len(read_many([IMAGE, IMAGE]).episodes) == 3
    assert find_bags([DATA]) == [IMAGE, VIDEO, EARLIER]


def test_a_scan_knows_what_reading_finds() -> None:
    scanned, read = scan_episodes(IMAGE), read_episodes(IMAGE)
    for one, other in zip(scanned.episodes, read.episodes, strict=True):
        for name, value in vars(one).items():
            assert np.array_equal(value, getattr(other, name))


def test_only_some_rollouts_and_episodes() -> None:
    ids = [e.rollout_id for e in scan_episodes(VIDEO, TopicMap(cameras=("wrist",))).episodes]
    chosen = read_episodes(VIDEO, TopicMap(cameras=("wrist",)), rollouts=[ids[2]])
    assert [e.rollout_id for e in chosen.episodes] == [ids[2]]
    assert psnr(chosen.episodes[0].view(0)[4], made.picture(2, 4, 0)) > 27
    some = read_lerobot(IMAGE, episodes=[1, 7])
    assert [e.instruction for e in some.episodes] == ["lift the cup"]
    assert some.count("episode_unknown") == 1


def test_ids_tell_data_sets_apart_and_stay_when_one_is_moved(copy: Path) -> None:
    here = [e.rollout_id for e in scan_episodes(IMAGE).episodes]
    assert [e.rollout_id for e in scan_episodes(copy).episodes] == here
    edit_info(copy, robot_type="another")
    assert not set(here) & {e.rollout_id for e in scan_episodes(copy).episodes}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "which camera is the main one is not clear"),
        ({"cameras": ("frnt",)}, "did you mean front"),
        ({"cameras": ("front", "observation.images.front")}, "named twice"),
        ({"cameras": ("front",), "state": "observation.stat"}, "no such state"),
    ],
)
def test_cameras_and_state_that_are_not_there(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UnlearningError, match=words) as caught:
        LeRobotReader(VIDEO, **options)
    assert caught.value.code == ErrorCode.UNLEARNING_BAD_REQUEST


def test_a_camera_called_image_is_the_main_one(copy: Path) -> None:
    features = json.loads((copy / "meta" / "info.json").read_text())["features"]
    front = features["observation.images.front"]
    edit_info(copy, features={**features, "observation.images.image": front})
    assert LeRobotReader(copy).cameras == ("observation.images.image",)


def test_depth_is_no_camera(copy: Path) -> None:
    features = json.loads((copy / "meta" / "info.json").read_text())["features"]
    depth = {**features["observation.images.front"], "info": {"is_depth_map": True}}
    edit_info(copy, features={**features, "observation.images.depth": depth})
    assert LeRobotReader(copy).cameras == ("observation.images.front",)


def test_without_a_verdict_success_is_unknown_until_somebody_says_it(copy: Path) -> None:
    path = copy / "data" / "chunk-000" / "file-000.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["next.success"]), path)
    unknown = read_lerobot(copy).episodes
    told = read_lerobot(copy, outcome=True).episodes
    wanted = Selection(outcome="success")
    assert [e.success for e in unknown] == [None] * 3
    assert [e.phase for e in unknown] == ["ABORTED"] * 3
    assert select(unknown, wanted) == []
    assert len(select(told, wanted)) == 3
    # What the data set says itself is not overruled.
    assert [e.success for e in read_lerobot(IMAGE, outcome=True).episodes] == [True, False, True]


def test_an_episode_with_several_tasks_is_cut_where_the_task_changes(copy: Path) -> None:
    edit_rows(copy, task_index=pa.array([0, 0, 1, 1, 1, 0] + [1] * 4 + [0] * 5))
    first = [e for e in read_lerobot(copy).episodes if "-000000-" in e.rollout_id]
    assert [(len(e), e.instruction, e.success) for e in first] == [
        (2, "push the cube", None),
        (3, "lift the cup", None),
        (1, "push the cube", True),
    ]
    assert np.array_equal(first[1].images[0], made.picture(0, 2, 0))
    chosen = read_episodes(copy, rollouts=[first[1].rollout_id])
    assert [e.rollout_id for e in chosen.episodes] == [first[1].rollout_id]


def test_pictures_can_be_scaled() -> None:
    (episode,) = read_lerobot(IMAGE, episodes=[0], size=(24, 32)).episodes
    assert episode.images.shape == (6, 24, 32, 3)
    halves = made.picture(0, 3, 0).reshape(24, 2, 32, 2, 3).mean(axis=(1, 3))
    assert np.abs(episode.images[3] - halves).max() <= 1


@pytest.mark.parametrize("version", ["v1.6", "v4.0"])
def test_another_version_is_refused_with_the_remedy(copy: Path, version: str) -> None:
    edit_info(copy, codebase_version=version)
    with pytest.raises(UnlearningError, match=f"{version}.*convert it with LeRobot") as caught:
        read_episodes(copy)
    assert caught.value.code == ErrorCode.UNLEARNING_BAG_UNREADABLE


def test_version_2_has_numbers_verdicts_and_instructions_as_well() -> None:
    report = read_lerobot(EARLIER, state="observation.state")
    assert [(len(e), e.instruction) for e in report.episodes] == made.EPISODES
    assert [e.success for e in report.episodes] == [True, False, True]
    for number, episode in enumerate(report.episodes):
        assert np.array_equal(episode.actions, [made.action(number, f) for f in range(len(episode))])
        assert np.array_equal(episode.states, [[number, f, 0.5] for f in range(len(episode))])


def test_version_2_with_a_damaged_list_is_read_up_to_there(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EARLIER, tmp_path / "set"))
    path = folder / "meta" / "episodes.jsonl"
    path.write_text(path.read_text()[:-20])
    (folder / "data" / "chunk-000" / "episode_000000.parquet").unlink()
    report = read_lerobot(folder)
    assert [e.instruction for e in report.episodes] == ["lift the cup"]
    assert {p.kind for p in report.problems} == {
        "episode_list_damaged",
        "episodes_not_listed",
        "data_unreadable",
    }
    (folder / "meta" / "tasks.jsonl").unlink()
    with pytest.raises(UnlearningError, match="tasks of the data set cannot be read"):
        read_lerobot(folder)


def test_pictures_may_lie_beside_the_rows_but_not_outside_of_the_data_set(copy: Path, tmp_path: Path) -> None:
    path = copy / "data" / "chunk-000" / "file-000.parquet"
    stored = pq.read_table(path)["observation.images.front"].to_pylist()
    (tmp_path / "outside.png").write_bytes(stored[1]["bytes"])
    (copy / "inside.png").write_bytes(stored[0]["bytes"])
    stored[0] = {"bytes": None, "path": "inside.png"}
    stored[1] = {"bytes": None, "path": "../outside.png"}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    edit_rows(copy, **{"observation.images.front": pa.array(stored, kind)})
    report = read_lerobot(copy, episodes=[0])
    assert report.count("frames_without_image") == 1
    assert np.array_equal(report.episodes[0].images[:2], [made.picture(0, 0, 0), made.picture(0, 2, 0)])


def test_a_path_that_leads_out_of_the_data_set_is_not_followed(copy: Path) -> None:
    edit_info(copy, data_path="../../elsewhere/file-{file_index:03d}.parquet")
    with pytest.raises(UnlearningError, match="leads out of the data set"):
        read_lerobot(copy)
