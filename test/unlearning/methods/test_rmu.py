"""RMU's distances by hand, its target and its layers."""

import pytest
import torch
from opened import Open
from view_tables import table_view

from vlaforget_ros.unlearning.methods.rmu import Rmu, RmuParameters

EVEN = [[0.5, 0.5], [0.5, 0.5]]


def test_both_distances_by_hand_in_units_of_the_norm() -> None:
    method = Rmu(RmuParameters(alpha=10.0))
    method._block, method._norm, method._target = 1, 2.0, torch.tensor([6.0, 8.0])
    method._original = {"retain": torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])}
    states = {1: torch.tensor([[[3.0, 4.0], [6.0, 6.0]]])}
    # Squared distances to (6, 8): 9 + 16 = 25 and 4; over the squared norm 4: 6.25 and 1, mean 3.625.
    forget = table_view([EVEN], bins=[[0, 0]], hidden=states)
    assert method.forget({"forget": forget})["forget"].item() == pytest.approx(3.625)
    # The second token alone is undesired.
    second = table_view([EVEN], bins=[[0, 0]], hidden=states, mask=[[0.0, 1.0]])
    assert method.forget({"forget": second})["forget"].item() == pytest.approx(1.0)
    # Retained: (3, 4) - (1, 0) is 4 + 16 = 20; (6, 6) - (0, 1) is 36 + 25 = 61; over 4, mean, times 10.
    retain = table_view([EVEN], bins=[[0, 0]], hidden=states, name="retain")
    assert method.retain({"retain": retain})["retain"].item() == pytest.approx(10 * (20 + 61) / 4 / 2)


def test_the_target_is_as_long_as_asked_and_points_to_a_positive_corner(open_method: Open) -> None:
    opened = open_method("rmu", steering=5.0)
    method, bench = opened.method, opened.bench
    assert isinstance(method, Rmu)
    norms = [state.norm() for frame in method._original["forget"] for state in frame]
    assert float(method._target.norm()) == pytest.approx(5 * float(sum(norms)) / len(norms), rel=1e-4)
    assert (method._target >= 0).all()
    # With fresh factors nothing is lost of what must stay.
    terms = opened.step()
    terms.gradient(method.retain)
    assert terms.losses["retain"] == pytest.approx(0.0, abs=1e-4)
    assert bench.network.entry(method.layers(bench)).stage == "language"


@pytest.mark.parametrize(
    ("block", "layers"),
    [(-1, [0, 1, 2]), (-2, [0, 1]), (0, [0]), (2, [0, 1, 2]), (99, [0, 1, 2]), (-99, [0])],
)
def test_the_block_and_the_two_below_it_are_trained(open_method: Open, block: int, layers: list[int]) -> None:
    opened = open_method("rmu", block=block)
    names = [f"language_model.model.layers.{index}" for index in layers]
    assert opened.method.layers(opened.bench) == names
