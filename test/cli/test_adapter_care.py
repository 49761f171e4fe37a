"""``vlaforget adapters remove | diff | gc`` as a person meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from vlaforget_ros.adapters import AdapterStore, LoraWeights
from vlaforget_ros.cli.app import app
from vlaforget_ros.errors import ErrorCode, VlaForgetError

runner = CliRunner()


def add(store: AdapterStore, name: str, factor: float, **more: str) -> str:
    tensors = {"projector.fc1": (torch.tensor([[3.0, 4.0]]), torch.tensor([[factor], [0.0]]))}
    weights = LoraWeights.from_tensors(tensors, alpha=1.0, base_digest="ab" * 32)
    return store.add_weights(weights, {"name": name, "method": "vla_forget", **more}).digest


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    opened = AdapterStore(tmp_path / "store")
    first = add(opened, "first", 1)
    opened.alias("candidate", add(opened, "second", 3, parent_digest=first))
    add(opened, "lone", 5)
    return opened


def adapters(store: AdapterStore, *line: str) -> Result:
    return runner.invoke(app, ["adapters", *line, "--store", str(store.root)])


def code(result: Result) -> ErrorCode:
    assert isinstance(result.exception, VlaForgetError)
    return result.exception.code


def test_remove_takes_an_adapter_out_and_refuses_what_is_in_use(store: AdapterStore) -> None:
    lone = store.resolve("lone")

    assert code(adapters(store, "remove", "candidate")) == ErrorCode.ADAPTER_NOT_PROMOTABLE
    assert code(adapters(store, "remove", "base")) == ErrorCode.ADAPTER_UNKNOWN
    assert lone[:12] in adapters(store, "remove", "lone").output
    assert json.loads(adapters(store, "remove", "first", "--json").output)["removed"] not in store.digests()
    assert [manifest.name for manifest in store.manifests()] == ["second"]


def test_diff_shows_fields_and_norms(store: AdapterStore) -> None:
    found = json.loads(adapters(store, "diff", "first", "second", "--json").output)
    assert found["fields"]["core.name"] == ["first", "second"]
    (layer,) = found["layers"]
    assert layer == {"layer": "projector.fc1", "left": 5.0, "right": 15.0, "difference": pytest.approx(10.0)}

    shown = adapters(store, "diff", "first", "second").output
    for words in ("core.parent_digest", "projector.fc1", "10", "second"):
        assert words in shown
    assert code(adapters(store, "diff", "first", "base")) == ErrorCode.ADAPTER_UNKNOWN


def test_gc_says_what_it_would_drop_and_drops_it(store: AdapterStore) -> None:
    lone = store.resolve("lone")
    assert "0 adapter(s) dropped, 3 kept" in adapters(store, "gc").output
    said = json.loads(adapters(store, "gc", "--keep", "0", "--dry-run", "--json").output)
    assert (said["dry_run"], said["dropped"], len(store.digests())) == (True, [lone], 3)
    assert said["freed_bytes"] > 0

    shown = adapters(store, "gc", "--keep", "0").output

    assert "1 adapter(s) dropped, 2 kept" in shown
    assert f"{said['freed_bytes']} bytes" in shown
    assert lone not in store.digests()
