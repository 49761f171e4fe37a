"""Serving-side LoRA against PEFT itself, and against the base model bit for bit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import peft
import psutil
import pytest
import torch
from torch import Tensor, nn

from vlaforget_ros.adapters import AdapterStore, LoraModule, LoraWeights, read_peft
from vlaforget_ros.errors import AdapterError, ErrorCode, PolicyError
from vlaforget_ros.policy.merged import FixedSlots, MergedSlots
from vlaforget_ros.policy.model import OpenVla
from vlaforget_ros.policy.policy import Batch, VlaPolicy
from vlaforget_ros.policy.slots import AdapterSlots, Delta
from vlaforget_ros.policy.stacked import StackedSlots

INSTRUCTIONS = ["open the faucet", "close the window", "make a coffee", "make a coffee", "open the faucet"]
TARGETS = r".*(blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc\d)|projector\.fc\d|([qkvo]|gate|up|down)_proj)"
PATTERNS = {
    "rank_pattern": {"projector.fc2": 3, "layers.1.mlp.up_proj": 2},
    "alpha_pattern": {"projector.fc2": 5},
}


@pytest.fixture
def batch(policy: VlaPolicy, images: np.ndarray) -> Batch:
    actions = np.random.default_rng(1).uniform(-0.02, 0.02, (5, policy.codec.dims))
    return policy.encode(images, INSTRUCTIONS, actions)


def logits(model: nn.Module, batch: Batch) -> Tensor:
    with torch.inference_mode():
        return model(batch.pixel_values, batch.input_ids, batch.attention_mask)


def train_peft(model: OpenVla, batch: Batch, directory: Path, **settings: object) -> None:
    """One real training step of PEFT on the policy, saved as PEFT saves."""
    torch.manual_seed(3)
    config = peft.LoraConfig(r=8, lora_alpha=12, target_modules=TARGETS, **settings)
    tuned = peft.get_peft_model(model, config)
    optimiser = torch.optim.SGD([p for p in tuned.parameters() if p.requires_grad], lr=3.0)
    for _ in range(2):
        loss = tuned(batch.pixel_values, batch.input_ids, batch.attention_mask).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    tuned.save_pretrained(directory)


def random_weights(model: nn.Module, seed: int, rank: int = 4, scale: float = 0.2) -> LoraWeights:
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: (
            scale * torch.randn(rank, module.in_features, generator=generator),
            scale * torch.randn(module.out_features, rank, generator=generator),
        )
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.endswith("lm_head")
    }
    return LoraWeights.from_tensors(tensors, alpha=2.0 * rank)


@pytest.fixture(params=[AdapterSlots, MergedSlots, FixedSlots])
def kind(request: pytest.FixtureRequest) -> type[AdapterSlots]:
    """Factors beside the layers, merged weights exchanged, merged weights copied into spares."""
    found: type[AdapterSlots] = request.param
    return found


@pytest.mark.parametrize("settings", [{}, PATTERNS])
def test_outputs_are_those_of_peft(
    checkpoint_dir: Path,
    batch: Batch,
    policy: VlaPolicy,
    tmp_path: Path,
    settings: dict[str, object],
    kind: type[AdapterSlots],
) -> None:
    train_peft(VlaPolicy.load(checkpoint_dir).model, batch, tmp_path, **settings)
    reference = peft.PeftModel.from_pretrained(VlaPolicy.load(checkpoint_dir).model, str(tmp_path)).eval()
    before = logits(policy.model, batch)

    slots = kind(policy.model)
    staged = slots.stage(read_peft(tmp_path))
    slots.activate(staged)
    found, expected = logits(policy.model, batch), logits(reference, batch)

    assert (found - before).abs().max() > 0.05
    assert (found - expected).abs().max() <= 1e-5
    if settings and kind is AdapterSlots:
        assert (found - expected).abs().max() <= 1e-6
        assert {delta.a.shape[0] for delta in staged.parts if isinstance(delta, Delta)} == {2, 3, 8}


@pytest.mark.parametrize("kind", [AdapterSlots, MergedSlots, StackedSlots])
def test_what_does_not_fit_into_memory_is_refused_before_it_is_staged(
    policy: VlaPolicy, monkeypatch: pytest.MonkeyPatch, kind: type[AdapterSlots]
) -> None:
    slots, weights = kind(policy.model), random_weights(policy.model, 1)
    size = slots.stage(weights).bytes
    mapped = psutil.Process().memory_info().shared

    def leave(free: int) -> None:
        monkeypatch.setattr(
            "psutil.virtual_memory", lambda: SimpleNamespace(available=mapped + 100_000_000 + free)
        )

    # What the process has mapped is in memory, available or not: the policy would read it from the disk again.
    monkeypatch.setattr(
        psutil.Process, "memory_info", lambda self: SimpleNamespace(shared=mapped + 100_000_000)
    )
    leave(size + 1000)
    slots.stage(weights)
    leave(size - 1000)
    with pytest.raises(PolicyError, match=r"there is no room for adapter .*are missing") as caught:
        slots.stage(weights)
    assert caught.value.code == ErrorCode.POLICY_OUT_OF_MEMORY


def test_spares_are_counted_where_there_are_none_yet(policy: VlaPolicy) -> None:
    slots = FixedSlots(policy.model)
    weights = random_weights(policy.model, 1)
    copies = sum(policy.model.get_submodule(name).weight.nbytes for name in weights.modules)
    assert slots._needed(weights) == 2 * copies
    slots.activate(slots.stage(weights))
    assert slots._needed(weights) == copies


def test_peft_reads_the_store(
    checkpoint_dir: Path, policy: VlaPolicy, batch: Batch, tmp_path: Path, kind: type[AdapterSlots]
) -> None:
    weights = random_weights(policy.model, 1)
    store = AdapterStore(tmp_path)
    digest = store.add_weights(
        weights, {"name": "a", "method": "test", "base_digest": policy.base_digest}
    ).digest
    reference = peft.PeftModel.from_pretrained(VlaPolicy.load(checkpoint_dir).model, str(store.path(digest)))

    slots = kind(policy.model)
    slots.activate(slots.stage(store.load(digest, base_digest=policy.base_digest)))

    found, expected = logits(policy.model, batch), logits(reference.eval(), batch)
    # Merged weights are rounded once more, and these deltas are large.
    limit = 1e-6 if kind is AdapterSlots else 1e-4 * expected.abs().max()
    assert (found - expected).abs().max() <= limit


def test_with_none_active_the_model_is_the_base_bit_for_bit(
    policy: VlaPolicy, batch: Batch, kind: type[AdapterSlots]
) -> None:
    before, keys = logits(policy.model, batch), list(policy.model.state_dict())
    weights_before = {name: value.clone() for name, value in policy.model.state_dict().items()}

    slots = kind(policy.model)
    idle = logits(policy.model, batch)
    slots.activate(slots.stage(random_weights(policy.model, 1)))
    changed = logits(policy.model, batch)
    slots.activate(None)
    after = logits(policy.model, batch)

    assert torch.equal(before, idle)
    assert torch.equal(before, after)
    assert not torch.allclose(before, changed)
    assert list(policy.model.state_dict()) == keys
    assert all(torch.equal(weights_before[name], value) for name, value in policy.model.state_dict().items())


def test_flipping_gives_each_adapter_its_own_output_again(
    policy: VlaPolicy, batch: Batch, kind: type[AdapterSlots]
) -> None:
    slots = kind(policy.model)
    staged = [slots.stage(random_weights(policy.model, seed, rank=seed + 1)) for seed in range(3)]
    outputs = []
    for adapter in staged:
        slots.activate(adapter)
        outputs.append(logits(policy.model, batch))

    for index in (2, 0, 1, 0):
        slots.activate(staged[index])
        assert torch.equal(logits(policy.model, batch), outputs[index])


def test_staging_neither_serves_nor_depends_on_the_source_tensors(
    policy: VlaPolicy, batch: Batch, kind: type[AdapterSlots]
) -> None:
    slots = kind(policy.model)
    weights = random_weights(policy.model, 1)
    slots.activate(slots.stage(weights))
    before = logits(policy.model, batch)

    slots.stage(random_weights(policy.model, 2))
    for module in weights.modules.values():
        module.a.zero_()

    assert torch.equal(logits(policy.model, batch), before)


def bad_weights(model: nn.Module, kind: str) -> LoraWeights:
    good = dict(random_weights(model, 5).modules)
    module = good["projector.fc3"]
    wrong = {
        "nan": LoraModule(module.a * float("nan"), module.b, 1.0),
        "shape": LoraModule(module.a[:, 1:], module.b, 1.0),
        "name": module,
    }[kind]
    return LoraWeights({**good, ("projector.fc9" if kind == "name" else "projector.fc3"): wrong})


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        ("nan", ErrorCode.ADAPTER_NON_FINITE),
        ("shape", ErrorCode.ADAPTER_BAD_SHAPE),
        ("name", ErrorCode.ADAPTER_BAD_SHAPE),
    ],
)
def test_a_refused_adapter_touches_nothing(
    policy: VlaPolicy, batch: Batch, bad: str, code: ErrorCode, kind: type[AdapterSlots]
) -> None:
    slots = kind(policy.model)
    slots.activate(slots.stage(random_weights(policy.model, 1)))
    before = logits(policy.model, batch)

    with pytest.raises(AdapterError) as caught:
        slots.stage(bad_weights(policy.model, bad))

    assert caught.value.code == code
    assert torch.equal(logits(policy.model, batch), before)


def test_a_value_that_overflows_the_type_of_the_model_is_refused() -> None:
    slots = AdapterSlots(nn.Sequential(nn.Linear(2, 2)).half())
    weights = LoraWeights({"0": LoraModule(torch.full((1, 2), 1e6), torch.ones(2, 1), 1.0)})

    with pytest.raises(AdapterError) as caught:
        slots.stage(weights)

    assert caught.value.code == ErrorCode.ADAPTER_NON_FINITE


def test_half_precision_models_keep_their_type() -> None:
    model = nn.Sequential(nn.Linear(4, 4)).to(torch.bfloat16)
    slots = AdapterSlots(model)
    x = torch.ones(2, 4, dtype=torch.bfloat16)
    base = model(x)

    slots.activate(slots.stage(random_weights(nn.Sequential(nn.Linear(4, 4)), 1, scale=1.0)))

    assert model(x).dtype == torch.bfloat16
    assert not torch.equal(model(x), base)


def test_an_adapter_staged_on_another_model_is_refused(
    policy: VlaPolicy, checkpoint_dir: Path, kind: type[AdapterSlots]
) -> None:
    slots, others = kind(policy.model), kind(VlaPolicy.load(checkpoint_dir).model)

    with pytest.raises(AdapterError):
        slots.activate(others.stage(random_weights(policy.model, 1)))


def test_only_named_layers_are_served_and_a_wrong_name_is_refused(
    policy: VlaPolicy, kind: type[AdapterSlots]
) -> None:
    slots = kind(policy.model, ["projector.fc1"])
    assert list(slots.shapes) == ["projector.fc1"]
    with pytest.raises(AdapterError):
        slots.stage(random_weights(policy.model, 1))
    with pytest.raises(AdapterError, match=r"projector\.fc9"):
        kind(policy.model, ["projector.fc9"])


def test_removed_slots_leave_the_base_model(
    policy: VlaPolicy, batch: Batch, kind: type[AdapterSlots]
) -> None:
    before = logits(policy.model, batch)
    slots = kind(policy.model)
    slots.activate(slots.stage(random_weights(policy.model, 1)))

    slots.remove()

    assert torch.equal(logits(policy.model, batch), before)
    assert not any(module._forward_hooks for module in policy.model.modules())


def test_fixed_weights_stay_where_a_graph_has_recorded_them(policy: VlaPolicy, batch: Batch) -> None:
    slots = FixedSlots(policy.model)
    layers = {name: module for name, module in policy.model.named_modules() if name in slots.shapes}
    base = {name: module.weight for name, module in layers.items()}
    copies = {name: weight.detach().clone() for name, weight in base.items()}
    some = LoraWeights({"projector.fc1": random_weights(policy.model, 3).modules["projector.fc1"]})
    staged = [slots.stage(random_weights(policy.model, seed)) for seed in range(2)] + [slots.stage(some)]
    slots.activate(staged[2])
    assert [name for name, module in layers.items() if module.weight is not base[name]] == ["projector.fc1"]
    slots.activate(staged[0])
    places = {name: module.weight.data_ptr() for name, module in layers.items()}
    for adapter in (staged[1], None, staged[2], staged[0]):
        slots.activate(adapter)
        assert {name: module.weight.data_ptr() for name, module in layers.items()} == places
    slots.remove()
    for name, module in layers.items():
        assert module.weight is base[name]
        assert torch.equal(module.weight, copies[name])


def test_merged_weights_cost_memory_only_where_an_adapter_touches_a_layer(policy: VlaPolicy) -> None:
    weights = random_weights(policy.model, 3).modules["projector.fc1"]
    staged = MergedSlots(policy.model).stage(LoraWeights({"projector.fc1": weights}))
    assert staged.bytes == 4 * policy.model.projector.fc1.weight.numel()
