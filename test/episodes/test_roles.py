"""Which topic plays which part, by a topic map and by a mapping file."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vlaforget_ros.episodes import TopicMap
from vlaforget_ros.episodes.catalogue.roles import roles
from vlaforget_ros.episodes.mapped.mapping import parse_mapping
from vlaforget_ros.episodes.storage.bags import Bag
from vlaforget_ros.errors import UnlearningError

from .conftest import Tape


def test_topics_of_the_live_graph(make_tape: Callable[..., Tape]) -> None:
    with Bag(make_tape(topics=["/image", "/action", "/rollout"]).close()) as bag:
        found = roles(bag, TopicMap())
    assert found.all == ("/image", "/action", "/rollout")
    assert found.absent == {"outcome": "outcome", "violation": "safety/violation"}


def test_a_needed_topic_is_missing(make_tape: Callable[..., Tape]) -> None:
    with (
        Bag(make_tape(topics=["/image"]).close()) as bag,
        pytest.raises(UnlearningError, match="no rollout topic"),
    ):
        roles(bag, TopicMap())


def test_topics_of_a_mapping(make_tape: Callable[..., Tape]) -> None:
    mapping = parse_mapping(
        """
        image: image
        action: {topic: /action}
        instruction: open the faucet
        outcome: {topic: safety/violation, field: rule}
        violations: [{topic: flag}]
        """
    )
    with Bag(make_tape().close()) as bag:
        found = roles(bag, mapping)
    assert (found.image, found.action) == ("/image", "/action")
    assert found.all == ("/image", "/action", "/safety/violation")
    assert found.absent == {"violation": "flag"}
