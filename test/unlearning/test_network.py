"""A pass from any entry gives what the plain forward pass gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vlaforget_ros.policy.config import PolicyConfig, VisionTowerConfig
from vlaforget_ros.policy.model import OpenVla
from vlaforget_ros.policy.policy import Batch, VlaPolicy
from vlaforget_ros.unlearning.network import Entry, Network

TEXTS = ["open the faucet", "make a coffee now", "close the window"]


@pytest.fixture
def batch(policy: VlaPolicy) -> Batch:
    """Three frames whose prompts differ in length: some rows are padded."""
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    actions = np.random.default_rng(1).uniform(-0.02, 0.02, (3, 4))
    return policy.encode(images, TEXTS, actions)


@pytest.mark.parametrize(
    "entry",
    [
        Entry("visual", (0,)),
        Entry("visual", (1,)),
        Entry("projector"),
        *(Entry("language", (n,)) for n in range(3)),
    ],
)
def test_every_entry_gives_the_plain_logits(policy: VlaPolicy, batch: Batch, entry: Entry) -> None:
    network = Network(policy.model)
    with torch.no_grad():
        expected = policy.action_logits(batch)
        state = network.enter(entry, batch.pixel_values, batch.input_ids, batch.action_positions)
        output = network.run(entry, state, batch.input_ids, batch.action_positions)
    torch.testing.assert_close(output.logits, expected, rtol=1e-4, atol=1e-4)
    assert (output.visual is None) == (entry.stage == "language")


def test_features_are_those_of_the_policy(policy: VlaPolicy, batch: Batch) -> None:
    network, entry = Network(policy.model), Entry("visual", (0,))
    with torch.no_grad():
        visual, projected = policy.features(batch.pixel_values)
        state = network.enter(entry, batch.pixel_values, batch.input_ids, batch.action_positions)
        output = network.run(entry, state, batch.input_ids, batch.action_positions)
    torch.testing.assert_close(output.visual, visual)
    torch.testing.assert_close(output.projected, projected)


def test_entry_lies_below_the_first_named_layer(policy: VlaPolicy) -> None:
    network = Network(policy.model)
    visual = "vision_backbone.featurizer.blocks.1"
    assert network.entry(["projector.fc2", visual]) == Entry("visual", (1,))
    assert network.entry(["projector.fc3"]) == Entry("projector")
    layers = ["language_model.model.layers.2", "language_model.model.layers.1"]
    assert network.entry(layers) == Entry("language", (1,))


def test_two_towers_are_entered_each_at_its_own_block() -> None:
    tower = VisionTowerConfig(image_size=16, patch_size=8, dim=16, heads=2, mlp_dim=32, depth=3)
    stats = {"names": ("x",), "units": ("m",), "q01": (-1,), "q99": (1,), "mask": (True,), "hold": (0,)}
    language = {
        "vocab_size": 40,
        "pad_token_id": 39,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = PolicyConfig(
        featurizer=tower.model_copy(update={"class_token": True, "registers": 2, "feature_block": -2}),
        fused_featurizer=tower,
        language=language,
        bins=16,
        action_vocab_end=40,
        norm_stats={"d": stats},
    )
    torch.manual_seed(0)
    model = OpenVla(config).eval()
    pixels, ids, positions = torch.randn(2, 6, 16, 16), torch.randint(0, 20, (2, 5)), torch.tensor([[7], [8]])
    network = Network(model)
    entry = network.entry(["vision_backbone.fused_featurizer.blocks.1"])
    assert entry == Entry("visual", (2, 1))  # the other tower is not run again at all
    with torch.no_grad():
        output = network.run(entry, network.enter(entry, pixels, ids, positions), ids, positions)
        plain = model(pixels, ids)
    expected = plain.gather(1, positions[..., None].expand(-1, -1, 40))
    torch.testing.assert_close(output.logits, expected, rtol=1e-4, atol=1e-4)
