"""Any value in a checkpoint's files may be wrong: it is a coded error or does not matter, and inspect knows it."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from released_parts import write_oft, write_released

from vlaforget_ros.bench import random_pi0
from vlaforget_ros.errors import PolicyError
from vlaforget_ros.paths import models_directory
from vlaforget_ros.policy.inspection import inspect
from vlaforget_ros.policy.policy import VlaPolicy

GONE = "gone"
VALUES = (GONE, None, -1, 0, 10**7, "x", [], {}, True, 1.5, float("nan"), [1], ["x"], {"x": 1})
TRIED = 120
# How the embedded policy was made and what it does, for people; tokenizers have tests of their own.
NOT_READ = ("rates.json", "recipe.json", "tokenizer.json")
Place = tuple[str | int, ...]


def _tiny(directory: Path) -> None:
    shutil.copytree(models_directory() / "tiny", directory)


def _oft(directory: Path) -> None:
    write_oft(directory, state=8, images=2)


def _pi0(directory: Path) -> None:
    random_pi0.write(directory, ("open the faucet",), random_pi0.Robot(state=2, chunk=3))


def _places(document: Any, above: Place = ()) -> Iterator[Place]:
    """Every place in a document; of lists the first two entries."""
    entries = document.items() if isinstance(document, dict) else enumerate(document[:2])
    for key, value in entries:
        yield (*above, key)
        if isinstance(value, dict | list):
            yield from _places(value, (*above, key))


def _changed(document: Any, place: Place, value: Any) -> Any:
    found = copy.deepcopy(document)
    owner = found
    for key in place[:-1]:
        owner = owner[key]
    if value is GONE:
        del owner[place[-1]]
    else:
        owner[place[-1]] = value
    return found


def _outcome(read: Callable[[Path], object], directory: Path) -> bool:
    """Whether it can be served; any other error than a coded one fails the test."""
    try:
        found = read(directory)
    except PolicyError:
        return False
    return not (isinstance(found, dict) and found["problems"])


@pytest.mark.parametrize("write", [write_released, _oft, _pi0, _tiny])
def test_nonsense_is_refused_or_does_not_matter(write: Callable[[Path], object], tmp_path: Path) -> None:
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    write(whole)
    documents = {
        file.relative_to(whole): (yaml.safe_load if file.suffix == ".yaml" else json.loads)(file.read_text())
        for file in sorted(whole.rglob("*"))
        if file.suffix in (".json", ".yaml") and file.name not in NOT_READ
    }
    all_of_them = [
        (name, place, value)
        for name, document in documents.items()
        for place in _places(document)
        for value in VALUES
    ]
    assert _outcome(inspect, whole)
    refused = 0
    for name, place, value in random.Random(0).sample(all_of_them, TRIED):
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(whole, damaged, copy_function=os.link)
        (damaged / name).unlink()
        (damaged / name).write_text(json.dumps(_changed(documents[name], place, value)))
        servable = _outcome(VlaPolicy.load, damaged)
        assert _outcome(inspect, damaged) == servable, (name, place, value)
        refused += not servable
    assert refused > TRIED // 10
