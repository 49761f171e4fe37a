"""Imports over HTTP from a real server: from the middle where it answers ranges, from the beginning where not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bundle_parts import archive, code_of_refusal, members_of, state
from flaky_files import Site, http_site

from vlaforget_ros.adapters import AdapterStore, LoraWeights
from vlaforget_ros.adapters.exchange import export_adapter, import_adapter
from vlaforget_ros.errors import ErrorCode


@pytest.fixture
def digest(store: AdapterStore, make_weights: Callable[..., LoraWeights]) -> str:
    return store.add_weights(make_weights(rank=16), {"name": "fix", "method": "npo"}).digest


@pytest.fixture
def robot(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path / "robot")


@pytest.fixture
def site(store: AdapterStore, digest: str) -> Iterator[Site]:
    with http_site({"/fix.tar": archive(members_of(store, digest).items())}) as running:
        yield running


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_over_http_goes_on_where_the_server_broke_off(
    ranges: bool, digest: str, robot: AdapterStore, site: Site
) -> None:
    size = len(site.files["/fix.tar"])
    site.ranges, site.breaks_after = ranges, 6000

    refused = code_of_refusal(
        lambda: import_adapter(robot, f"{site.url}/fix.tar", lambda *_: site.arrived.set())
    )

    assert refused == ErrorCode.ADAPTER_DISK
    (partial,) = (robot.root / "transfers").iterdir()
    assert partial.stat().st_size == 6000
    site.breaks_after = None
    site.asked.clear()
    taken = import_adapter(robot, f"{site.url}/fix.tar")

    assert (taken.manifest.digest, taken.source) == (digest, f"{site.url}/fix.tar")
    got = [wanted for method, wanted in site.asked if method == "GET"]
    assert got[0] == f"bytes=6000-{size - 1}"
    assert len(got) == (1 if ranges else 2)


@pytest.mark.parametrize("says_size", [True, False])
def test_a_server_that_sends_too_much_or_nothing_is_refused(
    says_size: bool, robot: AdapterStore, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.says_size = says_size
    assert import_adapter(robot, f"{site.url}/fix.tar").new
    before = state(robot.root)
    monkeypatch.setattr("vlaforget_ros.adapters.bundle.MAX_BUNDLE_BYTES", 4000)
    assert code_of_refusal(lambda: import_adapter(robot, f"{site.url}/fix.tar")) == 111
    assert code_of_refusal(lambda: import_adapter(robot, f"{site.url}/none.tar")) == 100
    assert state(robot.root) == before


def test_an_http_server_is_only_read_from(store: AdapterStore, digest: str, site: Site) -> None:
    assert code_of_refusal(lambda: export_adapter(store, digest, f"{site.url}/x.tar")) == 107
    assert site.asked == []
