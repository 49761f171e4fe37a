"""The bench of damaged bags: exact on a good reader, and able to say so of a bad one."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from vlaforget_ros.bench import damage
from vlaforget_ros.episodes.storage.bags import Bag
from vlaforget_ros.episodes.storage.message import Message


def test_everything_that_is_left_is_recovered(tmp_path: Path) -> None:
    result = damage.run_damage(tmp_path)
    assert result["recovered_share_error"] == 0
    assert result["invented"] == 0
    assert len(result["truncations"]) == 10
    assert len(result["flips"]) == result["chunks"] == 12
    assert all(0 < row["expected"] < result["messages"] for row in result["flips"])
    assert result["truncations"][-1]["expected"] == result["messages"]


class _Careless(Bag):
    """Loses the last message and invents one."""

    def messages(self, topics: Collection[str], *rest: Any, **more: Any) -> Iterator[Message]:
        found = list(super().messages(topics, *rest, **more))
        yield from found[:-1]
        if self.path.name == "damaged.mcap":
            yield found[0]._replace(data=b"never written")


def test_a_careless_reader_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(damage, "Bag", _Careless)
    result = damage.run_damage(tmp_path)
    assert result["recovered_share_error"] > 0
    assert result["invented"] == len(result["truncations"]) + len(result["flips"])
