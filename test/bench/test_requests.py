"""Requests with recordings of their own, in small: real episodes, a real bag, a request that can be read."""

from pathlib import Path

import pytest

from vlaforget_ros.bench.requests import chain
from vlaforget_ros.episodes.reader import read_episodes
from vlaforget_ros.paths import models_directory


@pytest.mark.timeout(300)
def test_a_chain_asks_for_the_other_scenarios_twice_and_never_for_the_first_again(tmp_path: Path) -> None:
    heard: list[str] = []
    links = chain(
        "trigger",
        models_directory() / "tiny",
        tmp_path,
        1,
        lambda what, done, total: heard.append(what),
        first_seed=30_000,
        recorded=(1, 1, 1),
    )
    names = ["binding", "prior", "binding_again", "prior_again"]
    assert [link.name for link in links] == names
    assert [link.scenario for link in links] == ["binding", "prior"] * 2
    assert list(dict.fromkeys(heard)) == [f"{name}: recording" for name in names]
    for link in links:
        (bag,) = link.request.bags
        seeds = {e.rollout_id.split("-")[-2] for e in read_episodes(Path(bag)).episodes}
        assert seeds == ({"31000"} if link.name.endswith("again") else {"30000"})
        assert Path(link.request.base).is_dir()
