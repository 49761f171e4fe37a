"""Retraining without the forget set: the gold standard of unlearning, where one can afford it.

The result is a checkpoint, not an adapter: every weight is learnt anew. It serves as the never-saw reference of attacks
and evaluations. Only networks of the embedded policy's kind can be trained from nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from vlaforget_ros.episodes.dataset import FrameSet, concat
from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.policy.cloning import CloningProgress, CloningSettings, clone
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.tiny import random_weights
from vlaforget_ros.unlearning.request import Request
from vlaforget_ros.unlearning.sources import gather


def retrain(
    request: Request,
    more: Sequence[FrameSet],
    settings: CloningSettings,
    out: Path,
    resume: bool = False,
    progress: Callable[[CloningProgress], None] | None = None,
) -> Path:
    """Train a network like the base from random weights on everything but D_f.

    Args:
        request: its D_r, D_b and D_c are what is learnt, its base gives configuration and vocabulary.
        more: further demonstrations. A request's own episodes alone are far too few for a policy that can work; none
            of these may show what is to be forgotten.
        settings: of the training; ``seed`` is that of the weights, too.
        out: folder of the new checkpoint.
        resume: go on from the last saved step.
        progress: called every 25 steps.

    Returns:
        ``out``.

    Raises:
        UnlearningError: 300 for a base that is not of the embedded policy's kind, 301 to 303 as an edit.
        PolicyError: 211 as a training.
    """
    base = VlaPolicy.load(Path(request.base), request.device)
    if base.config.fused_featurizer is not None or not base.config.featurizer.stem_channels:
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAD_REQUEST,
            "this base cannot be trained from random weights here",
            value=base.config.name,
            limit="the embedded policy's kind: one vision tower with a convolutional stem",
            remedy="give a checkpoint that never saw the behaviour with --never-saw where one is asked for",
        )
    data = gather(request, base).data
    kept = [frames for name, frames in data.sets().items() if name != "forget"]
    fresh = random_weights(base.config, settings.seed).to(base.device)
    policy = VlaPolicy(fresh, base.tokenizer, base.base_digest)
    return clone(policy, concat([*kept, *more]), settings, out, resume, progress)
