"""Adapters by way of S3, the Hugging Face Hub and Google Cloud Storage: their real drivers, servers of our own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import s3_server
from bundle_parts import state
from object_stores import Remote, cloud_storage, hub
from s3_server import s3

from vlaforget_ros.adapters import AdapterStore, LoraWeights

_KINDS = {
    "hf": (hub, "hf://datasets/me/adapters", lambda url: {"HF_ENDPOINT": url}),
    "gs": (cloud_storage, "gs://fleet/lab", lambda url: {"STORAGE_EMULATOR_HOST": url}),
    "s3": (s3, "s3://fleet/lab", s3_server.settings),
}


class Place:
    """One of them, and commands that use it in processes of their own: drivers read their settings when imported."""

    def __init__(self, kind: str, remote: Remote, folder: Path) -> None:
        self.remote, self.url = remote, _KINDS[kind][1]
        home = {"HF_HOME": str(folder / "hf"), "HF_TOKEN": "hf_of_a_test", "HF_HUB_DISABLE_TELEMETRY": "1"}
        # Whoever runs the tests may have accounts of their own: none of them is used.
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FSSPEC_"))}
        self._environment = {**mine, **_KINDS[kind][2](remote.url), **home}

    def run(self, *arguments: str) -> tuple[int, str]:
        """Exit status and everything printed."""
        command = [sys.executable, "-m", "vlaforget_ros.cli.app", "adapters", *arguments]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture(params=list(_KINDS))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with _KINDS[request.param][0]() as remote:
        yield Place(request.param, remote, tmp_path)


@pytest.fixture
def digest(store: AdapterStore, make_weights: Callable[..., LoraWeights]) -> str:
    return store.add_weights(make_weights(rank=16), {"name": "fix", "method": "npo"}).digest


def test_an_adapter_goes_there_and_comes_back_with_its_digest_also_over_a_broken_line(
    place: Place, store: AdapterStore, digest: str, tmp_path: Path
) -> None:
    robot = AdapterStore(tmp_path / "robot")
    status, said = place.run("export", "fix", f"{place.url}/fix.tar", "--store", str(store.root))
    assert status == 0, said
    (name,) = place.remote.files
    assert name.endswith("fix.tar")
    # A line that breaks: a driver may mend it by itself; if not, the same command goes on where it stopped.
    place.remote.breaks_after = 6000
    status, said = place.run("import", f"{place.url}/fix.tar", "--store", str(robot.root))
    if status:
        assert "107" in said
        status, said = place.run("import", f"{place.url}/fix.tar", "--store", str(robot.root))
    assert status == 0, said
    assert [manifest.digest for manifest in robot.manifests()] == [digest]


def test_a_bundle_that_was_changed_there_is_refused(
    place: Place, store: AdapterStore, digest: str, tmp_path: Path
) -> None:
    status, said = place.run("export", "fix", f"{place.url}/fix.tar", "--store", str(store.root))
    assert status == 0, said
    (name,) = place.remote.files
    content = bytearray(place.remote.files[name])
    content[-3000] ^= 1
    place.remote.files[name] = bytes(content)
    robot = AdapterStore(tmp_path / "robot")
    before = state(robot.root)
    status, said = place.run("import", f"{place.url}/fix.tar", "--store", str(robot.root))
    assert status != 0
    assert "[103" in said or "[111" in said, said
    assert not robot.manifests()
    assert before == {} or state(robot.root) == before
    status, said = place.run("import", f"{place.url}/none.tar", "--store", str(robot.root))
    assert status != 0
    assert "[100" in said, said
