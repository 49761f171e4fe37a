"""The same request with another method."""

from __future__ import annotations

import pytest

from vlaforget_ros.errors import UnlearningError
from vlaforget_ros.unlearning.methods import METHODS
from vlaforget_ros.unlearning.override import with_method
from vlaforget_ros.unlearning.request import read_request


def test_shared_parameters_stay_others_go_and_the_rest_are_the_other_methods_defaults(
    request_text: str,
) -> None:
    request = read_request(request_text.replace("learning_rate: 0.02, ", ""))
    changed, kept, dropped = with_method(request, "npo")
    assert changed.method == "npo"
    assert changed.name == "sticker-npo"
    # rank 4 was asked for; 1e-3 is what npo learns at where nothing is said, 2e-3 what vla_forget does.
    assert (changed.parameters.rank, changed.parameters.learning_rate) == (4, 1e-3)
    assert request.parameters.learning_rate == 2e-3
    assert set(kept) == {
        "rank", "lora_alpha", "batch_forget", "batch_retain", "batch_boundary", "batch_counterfactual",
        "score_frames",
    }  # fmt: skip
    assert set(dropped) == {
        "steps_visual", "steps_projector", "steps_language", "max_rounds", "min_gain", "min_share", "kl_sharpness",
        "lambda_f",
    }  # fmt: skip
    same = changed.model_dump(mode="json", exclude={"name", "method", "parameters"})
    assert same == request.model_dump(mode="json", exclude={"name", "method", "parameters"})
    assert changed.make_method().key == "npo"


@pytest.mark.parametrize("key", METHODS)
def test_every_method_can_take_over(request_text: str, key: str) -> None:
    changed, kept, dropped = with_method(read_request(request_text), key)
    assert changed.make_method().key == key
    assert changed.digest != read_request(request_text).digest
    assert bool(dropped) == (key != "vla_forget")
    assert "rank" in kept


def test_an_unknown_method_and_a_value_it_does_not_take(request_text: str) -> None:
    with pytest.raises(UnlearningError, match="did you mean simnpo"):
        with_method(read_request(request_text), "simpno")
    # 0 is a fair exponent of phi, and no factor that F_f could exceed F_r by.
    zero = read_request(request_text.replace("max_rounds: 1", "max_rounds: 1, alpha: 0"))
    with pytest.raises(UnlearningError, match=r"parameters\.alpha: Input should be greater than 0"):
        with_method(zero, "ssd")
