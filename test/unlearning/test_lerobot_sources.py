"""A LeRobot data set among the bags of a request."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vlaforget_ros.episodes import Episode, EpisodeWriter, read_episodes
from vlaforget_ros.episodes.lerobot.conversion import write_episode
from vlaforget_ros.episodes.lerobot.writing import write_lerobot
from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning.request import read_request
from vlaforget_ros.unlearning.sources import gather


@pytest.fixture
def split(bag: Path, tmp_path: Path) -> tuple[Path, list[Episode]]:
    """A bag with nothing but what is to be forgotten, and the other episodes."""
    episodes = read_episodes(bag).episodes
    with EpisodeWriter(tmp_path / "bad") as writer:
        for episode in episodes:
            if episode.violated:
                write_episode(writer, episode)
    return tmp_path / "bad", [episode for episode in episodes if not episode.violated]


def test_what_is_retained_may_be_a_data_set(
    split: tuple[Path, list[Episode]], request_text: str, bag: Path, policy: VlaPolicy, tmp_path: Path
) -> None:
    bad, good = split
    write_lerobot(good, tmp_path / "set", 10, video=False, outcomes=True)
    text = request_text.replace(f"[{bag}]", f"[{bad}, {tmp_path / 'set'}]")
    assert text != request_text
    found, expected = (gather(read_request(t), policy).data.digests() for t in (text, request_text))
    assert found == expected


def test_actions_of_another_size_are_refused(
    split: tuple[Path, list[Episode]], request_text: str, bag: Path, policy: VlaPolicy, tmp_path: Path
) -> None:
    bad, good = split
    wide = [replace(e, actions=np.pad(e.actions, ((0, 0), (0, 3)))) for e in good]
    write_lerobot(wide, tmp_path / "set", 10, video=False, outcomes=True)
    text = request_text.replace(f"[{bag}]", f"[{bad}, {tmp_path / 'set'}]")
    with pytest.raises(UnlearningError, match="not the policy's; value: 7 numbers; limit: 4") as caught:
        gather(read_request(text), policy)
    assert caught.value.code == ErrorCode.UNLEARNING_BAD_REQUEST


def test_actions_in_other_units_are_remarked_on(
    split: tuple[Path, list[Episode]], request_text: str, bag: Path, policy: VlaPolicy, tmp_path: Path
) -> None:
    bad, good = split
    millimetres = [replace(e, actions=e.actions * 1000) for e in good]
    write_lerobot(millimetres, tmp_path / "set", 10, video=False, outcomes=True)
    text = request_text.replace(f"[{bag}]", f"[{bad}, {tmp_path / 'set'}]")
    assert gather(read_request(request_text), policy).remarks == ()
    (remark,) = gather(read_request(text), policy).remarks
    assert str(tmp_path / "set") in remark
    assert "other units" in remark
