"""Of a request's bags only the episodes are read that it may use, and its sets are what they would be anyway."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from vlaforget_ros.episodes.reader import read_many
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning import needed
from vlaforget_ros.unlearning.needed import read_needed
from vlaforget_ros.unlearning.request import Request, parse_request
from vlaforget_ros.unlearning.sources import from_episodes, gather

SOURCES = ("[]", "[{kind: transplant}]", "[{kind: clean_successes}]")


def narrow(text: str, sources: str) -> Request:
    """A request that has no use for the episodes of a neighbour instruction."""
    values: dict[str, Any] = yaml.safe_load(text)
    values["counterfactual"] = yaml.safe_load(sources)
    values["retain"] = {"instructions": ["open the faucet"], "outcome": "success", "has_violation": False}
    values.pop("boundary", None)
    return parse_request(values)


@pytest.mark.parametrize("sources", SOURCES)
def test_the_sets_are_those_of_reading_everything(sources: str, request_text: str, policy: VlaPolicy) -> None:
    request = narrow(request_text, sources)
    everything = read_many([Path(bag) for bag in request.bags], request.topics).episodes
    expected = from_episodes(everything, request, policy)
    found = gather(request, policy)
    assert len(read_needed(request).episodes) < len(everything)
    digests = [{n: s.digest() for n, s in each.data.sets().items()} for each in (found, expected)]
    assert digests[0] == digests[1]
    assert [note for note in found.notes if "left out: 1 " not in note] == expected.notes


def test_images_of_the_others_are_never_decoded(request_text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    request = narrow(request_text, "[]")
    asked: list[set[str]] = []
    real = needed.read_episodes

    def read(bag: Path, topics: Any, rollouts: set[str]) -> Any:
        asked.append(rollouts)
        return real(bag, topics, rollouts)

    monkeypatch.setattr(needed, "read_episodes", read)
    found = read_needed(request)
    assert {info.instruction for info in found.others} == {"make a coffee now"}
    assert all(ids.isdisjoint(info.rollout_id for info in found.others) for ids in asked)
    assert found.looked_for == len(found.episodes)


def test_names_that_only_unused_episodes_have_are_known(request_text: str, policy: VlaPolicy) -> None:
    values = yaml.safe_load(request_text)
    values["forget"] = {"instructions": ["shut the faucet"]}
    with pytest.raises(Exception, match="make a coffee now"):
        gather(parse_request(values), policy)
