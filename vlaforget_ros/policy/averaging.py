"""The mean of several checkpoints' weights (model soups, Wortsman et al. 2022, arXiv 2203.05482)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from vlaforget_ros.errors import ErrorCode, PolicyError
from vlaforget_ros.policy import checkpoint


def average(checkpoints: Sequence[Path], out: Path) -> str:
    """Write the mean of ``checkpoints`` to ``out`` and return its digest.

    It makes sense for checkpoints that one was trained from, or that have one ancestor: their errors differ, what
    they have learned does not.

    Raises:
        PolicyError: 207 for an unusable checkpoint, or one that has another configuration or tokenizer.
    """
    model, tokenizer = checkpoint.load(checkpoints[0])
    states = [model.state_dict()]
    for folder in checkpoints[1:]:
        other, words = checkpoint.load(folder)
        if other.config != model.config or words.to_str() != tokenizer.to_str():
            raise PolicyError(
                ErrorCode.POLICY_BAD_CHECKPOINT,
                "checkpoints of another configuration or tokenizer have no mean",
                value=str(folder),
                limit=f"as in {checkpoints[0]}",
            )
        states.append(other.state_dict())
    with torch.no_grad():
        mean = {name: torch.stack([state[name] for state in states]).mean(dim=0) for name in states[0]}
    model.load_state_dict(mean)
    return checkpoint.save(out, model, tokenizer)
