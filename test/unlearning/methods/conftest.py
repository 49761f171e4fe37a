"""A method on the small random policy, opened as a round would open it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from opened import Open, Opened

from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning.data import EditData
from vlaforget_ros.unlearning.edit import EditSettings, prepare
from vlaforget_ros.unlearning.guard import Guard
from vlaforget_ros.unlearning.methods import METHODS, make_method
from vlaforget_ros.unlearning.methods.base import JointMethod


@pytest.fixture
def open_method(base_dir: Path, data: EditData, settings: EditSettings) -> Open:
    """From key and parameters (and ``sets``, in place of the usual ones) to a method with factors, started."""

    def make(key: str, sets: EditData = data, **own: Any) -> Opened:
        small = {"score_frames": 8, "rank": 4, "lora_alpha": 8, **own}
        method = make_method(key, METHODS[key].Parameters(**small))
        bench = prepare(VlaPolicy.load(base_dir), sets, replace(settings, method=method), Guard(3600, 1e6))
        if not isinstance(method, JointMethod):
            raise TypeError(f"{key} has a schedule of its own")
        layers = method.layers(bench)
        modules = bench.modules(layers)
        bench.enter_at(bench.network.entry(layers))
        bench.adapter.add(modules, seed=1)
        factors = bench.adapter.train(modules)
        method.start(bench, modules)
        return Opened(method, bench, modules, factors, method.mask(bench, modules))

    return make
