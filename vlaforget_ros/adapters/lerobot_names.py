"""Names of pi0-FAST's layers as lerobot has them, in checkpoints and in adapters, and as this package has them.

Here the parts of every policy have the same places, so that one edit, one swap and one store serve all of them.
"""

from __future__ import annotations

_ROOT = "paligemma_with_expert.paligemma."
# lerobot's beginning, ours; the first that fits. The second pair of towers is how newer libraries write the first.
_NAMES = (
    ("model.vision_tower.vision_model.encoder.layers.", "vision_backbone.featurizer.blocks."),
    ("model.vision_tower.vision_model.", "vision_backbone.featurizer."),
    ("model.vision_tower.encoder.layers.", "vision_backbone.featurizer.blocks."),
    ("model.vision_tower.", "vision_backbone.featurizer."),
    ("model.multi_modal_projector.", "projector."),
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
)


def network_name(name: str) -> str:
    """Our name of a layer or tensor; one that is not lerobot's stays as it is."""
    inner = name.removeprefix("model.").removeprefix(_ROOT)
    for theirs, ours in _NAMES:
        if inner.startswith(theirs):
            return ours + inner.removeprefix(theirs)
    return name


def checkpoint_name(ours: str) -> str:
    """lerobot's name of a layer or tensor. Raises ValueError for one that it does not have."""
    for theirs, prefix in _NAMES:
        if ours.startswith(prefix):
            return f"model.{_ROOT}{theirs}{ours.removeprefix(prefix)}"
    raise ValueError(f"{ours} is in no checkpoint")
