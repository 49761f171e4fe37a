"""The benchmark of several arms on one model measures both ways and finds each arm's own answers."""

from __future__ import annotations

from vlaforget_ros.bench.arms import Kind, measure
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.tiny import new_tiny


def test_each_count_has_both_times_their_ratio_and_no_mixed_output() -> None:
    model, tokenizer = new_tiny(["open the faucet"], 0)
    policy = VlaPolicy(model.eval(), tokenizer, "0" * 64)
    document = measure([Kind("_x", policy, "open the faucet", 2)], [1, 3], rounds=3)
    found = {figure["name"]: figure["value"] for figure in document["figures"]}
    for count in (1, 3):
        together, in_turns = (found[f"arms_{count}_{how}_ms_x"] for how in ("together", "in_turns"))
        assert found[f"arms_{count}_x_ratio"] == in_turns / together
        assert found[f"arms_{count}_mixed_outputs_x"] == 0
    assert not any(module._forward_hooks for module in policy.model.modules())
