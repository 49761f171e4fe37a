"""Files beside the package are found in a source tree, in a colcon install and after pip install."""

from pathlib import Path

import pytest

from vlaforget_ros import paths
from vlaforget_ros.errors import ErrorCode, VlaForgetError

ROOT = Path(__file__).resolve().parents[2]


def _module(folder: Path) -> Path:
    module = folder / "vlaforget_ros" / "paths.py"
    module.parent.mkdir(parents=True)
    module.touch()
    return module


def test_this_source_tree_is_found() -> None:
    assert paths.share_directory() == ROOT
    assert paths.source_root() == ROOT
    assert (paths.config_directory() / "tiny.yaml").is_file()
    assert paths.models_directory() == ROOT / "models"


@pytest.mark.parametrize(
    "packages", ["lib/python3.11/site-packages", "local/lib/python3.12/dist-packages", "."]
)
def test_an_install_is_found_from_wherever_its_packages_are(tmp_path: Path, packages: str) -> None:
    share = tmp_path / "share" / "vlaforget_ros"
    (share / "config").mkdir(parents=True)
    assert paths.find_share(_module(tmp_path / packages)) == share


def test_a_link_into_the_source_tree_counts_as_the_source_tree(tmp_path: Path) -> None:
    link = tmp_path / "site-packages" / "vlaforget_ros" / "paths.py"
    link.parent.mkdir(parents=True)
    link.symlink_to(ROOT / "vlaforget_ros" / "paths.py")
    assert paths.find_share(link) == ROOT


def test_without_the_files_the_error_says_where_they_should_be(tmp_path: Path) -> None:
    with pytest.raises(VlaForgetError) as caught:
        paths.find_share(_module(tmp_path / "lib"))
    assert caught.value.code == ErrorCode.FILES_MISSING
    assert "share/vlaforget_ros/config" in str(caught.value)


def test_checkpoints_are_found_by_path_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tmp_path / "models" / "tiny"
    mine = tmp_path / "elsewhere" / "mine"
    for folder in (shipped, mine):
        folder.mkdir(parents=True)
    monkeypatch.setattr(paths, "share_directory", lambda: tmp_path)
    monkeypatch.chdir(mine.parent)
    assert paths.checkpoint_directory("tiny") == shipped
    assert paths.checkpoint_directory("models/tiny") == shipped
    assert paths.checkpoint_directory("mine") == mine
    assert paths.checkpoint_directory(str(mine)) == mine
    for unknown in ("tyny", "", str(tmp_path / "nowhere")):
        with pytest.raises(VlaForgetError) as caught:
            paths.checkpoint_directory(unknown)
        assert caught.value.code == ErrorCode.POLICY_BAD_CHECKPOINT
        assert "tiny" in caught.value.remedy
