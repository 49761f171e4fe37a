"""What a mask says is constant stays so bit for bit, whatever the optimiser remembers."""

from pathlib import Path

import pytest
import torch
from opened import Open, Opened

from vlaforget_ros.unlearning.checkpoints import Checkpoints
from vlaforget_ros.unlearning.journal import Journal
from vlaforget_ros.unlearning.training import Loop


def loop(opened: Opened, path: Path, steps: int) -> Loop:
    bench, method = opened.bench, opened.method
    checkpoints = Checkpoints(Journal(path, {}, False), "x", opened.factors, method.state, method.set_state)
    return Loop(
        bench.banks, bench.rows.train, opened.factors, opened.masks, method.gradients, bench.parameters, steps,
        (0, 0), bench.guard, checkpoints,
    )  # fmt: skip


@pytest.mark.parametrize(("key", "own"), [("salun", {}), ("ihl", {"fila": True})])
def test_masked_elements_keep_their_bits_over_several_steps(
    open_method: Open, tmp_path: Path, key: str, own: dict[str, bool]
) -> None:
    opened = open_method(key, **own)
    assert opened.masks is not None
    before = [factor.detach().clone() for factor in opened.factors]
    loop(opened, tmp_path, 4).run(lambda _: None)
    for factor, old, mask in zip(opened.factors, before, opened.masks, strict=True):
        assert torch.equal(factor[mask == 0], old[mask == 0])
    changed = sum(int((f != old).sum()) for f, old in zip(opened.factors, before, strict=True))
    assert changed > 0


def test_momentum_and_weight_decay_of_an_optimiser_do_not_leak_through_a_mask(
    open_method: Open, tmp_path: Path
) -> None:
    opened = open_method("salun")
    (factor, *_), masks = opened.factors, opened.masks
    assert masks is not None
    training = loop(opened, tmp_path, 1)
    with torch.no_grad():
        factor.fill_(0.5)
    # One with both, and momentum everywhere from steps without a mask: a zero gradient alone would not hold it.
    optimiser = torch.optim.Adam(opened.factors, lr=0.1, weight_decay=0.1)
    for own in opened.factors:
        optimiser.state[own] = {
            "step": torch.tensor(3.0), "exp_avg": torch.ones_like(own), "exp_avg_sq": torch.ones_like(own),
        }  # fmt: skip
    training._update(optimiser, [torch.ones_like(own) for own in opened.factors], 1)
    held, moved = factor[masks[0] == 0], factor[masks[0] == 1]
    assert len(held)
    assert torch.equal(held, torch.full_like(held, 0.5))
    assert torch.all(moved != 0.5)
