"""Who gets room for raw images in Fast DDS."""

from pathlib import Path

import pytest

from vlaforget_ros.bringup import middleware
from vlaforget_ros.bringup.middleware import image_profiles
from vlaforget_ros.paths import config_directory

FILE = str(config_directory() / "fastdds_images.xml")


@pytest.fixture(autouse=True)
def _any_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "_LEAST_FREE", 0)


def test_the_name_of_the_variable_depends_on_the_distribution(tmp_path: Path) -> None:
    assert image_profiles({"ROS_DISTRO": "kilted"}, tmp_path) == {"FASTDDS_DEFAULT_PROFILES_FILE": FILE}
    assert image_profiles({"ROS_DISTRO": "jazzy"}, tmp_path) == {"FASTRTPS_DEFAULT_PROFILES_FILE": FILE}


@pytest.mark.parametrize("name", ["FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"])
def test_what_the_user_chose_stays(tmp_path: Path, name: str) -> None:
    assert image_profiles({name: "/etc/mine.xml"}, tmp_path) == {}


def test_a_container_without_the_memory_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert image_profiles({}, tmp_path / "missing") == {}
    monkeypatch.setattr(middleware, "_LEAST_FREE", 1 << 60)
    assert image_profiles({}, tmp_path) == {}
