"""Every method on OpenVLA-7B, OpenVLA-OFT and pi0-FAST in small (their layouts, seven dimensions), by request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from edit_parts import BOUNDARY, FORGET, RETAIN, STATE, request_for, write_bag
from released_parts import write_oft, write_released

from vlaforget_ros.adapters.peft_format import read_peft
from vlaforget_ros.bench import random_pi0
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.slots import AdapterSlots
from vlaforget_ros.unlearning import child
from vlaforget_ros.unlearning.methods import METHODS

SMALL = {
    "rank": 4,
    "lora_alpha": 8,
    "batch_forget": 4,
    "batch_retain": 4,
    "batch_boundary": 4,
    "score_frames": 8,
    "evaluation_frames": 16,
}
OWN: dict[str, dict[str, Any]] = {
    "vla_forget": {
        "steps_visual": 2,
        "steps_projector": 2,
        "steps_language": 2,
        "max_rounds": 1,
        "min_gain": 0,
        "min_share": 0,
    },
    "ssd": {"fisher_frames": 4, "alpha": 1.0},
    "scrub": {"steps": 2, "cycles": 2},
}


def write_pi0(directory: Path) -> None:
    random_pi0.write(directory, (FORGET, RETAIN, BOUNDARY), random_pi0.Robot(state=2, chunk=3, bound=0.02))


@pytest.fixture(
    scope="module",
    params=[(write_released, 0), (write_oft, 0), (write_pi0, 2)],
    ids=["openvla_7b", "openvla_oft", "pi0_fast"],
)
def request_values(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("released")
    write, state = request.param
    write(folder / "base")
    bag = write_bag(folder / "bag", dims=7, state=state)
    values: dict[str, Any] = yaml.safe_load(request_for(folder / "base", bag))
    return {**values, **({"state": STATE} if state else {})}


# A random pi0-FAST gives no well-formed action: only a strong push makes undesired tokens less likely in two steps.
PUSHED = {"learning_rate": 0.02, "lambda_f": 1000.0}


@pytest.mark.parametrize("key", METHODS)
def test_a_method_edits_it(key: str, request_values: dict[str, Any], tmp_path: Path) -> None:
    parameters = {**SMALL, "batch_counterfactual": 4, **OWN.get(key, {"steps": 2})}
    if key == "vla_forget" and "state" in request_values:
        parameters = {**parameters, **PUSHED}
    gates = {"rc_min": 0, "rad_max": 1, "rad_boundary_max": 1}
    file = tmp_path / "request.yaml"
    file.write_text(
        yaml.safe_dump({**request_values, "method": key, "parameters": parameters, "gates": gates})
    )
    status = child.main(["--request", str(file), "--out", str(tmp_path / "out")])
    record = json.loads((tmp_path / "out" / "edit.json").read_text())
    assert status == 0
    adapter = read_peft(tmp_path / "out" / "adapter")
    AdapterSlots(VlaPolicy.load(Path(request_values["base"])).model).stage(adapter)
    if key == "vla_forget":
        assert [done["stage"] for done in record["rounds"]] == ["visual", "projector", "language"]
    elif key != "rmu":  # its steered block and those below are of the language model
        towers = {name.split(".")[1] for name in adapter.modules if name.startswith("vision_backbone.")}
        fused = VlaPolicy.load(Path(request_values["base"])).config.fused_featurizer is not None
        assert towers == {"featurizer", *(["fused_featurizer"] if fused else [])}, "all are edited"
