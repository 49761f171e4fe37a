"""What OpenVLA's config.json leaves to timm about a vision tower: read from the shapes of its weights.

The towers of the release must be whole: shapes alone do not tell a network without its last block, or without its
registers, from a smaller one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from vlaforget_ros.policy.config import VisionTowerConfig
from vlaforget_ros.policy.unusable import reason, unusable


@dataclass(frozen=True)
class _Known:
    """A network of timm; its attention heads are in no file."""

    width: int
    heads: int
    depth: int
    registers: int


# The two of the release.
_KNOWN = {
    "vit_large_patch14_reg4_dinov2.lvd142m": _Known(width=1024, heads=16, depth=24, registers=4),
    "vit_so400m_patch14_siglip_224": _Known(width=1152, heads=16, depth=27, registers=0),
}
# Mean and deviation of the pixels: DINO's and SigLIP's.
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SIGLIP = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
_CLASS, _REGISTERS, _SCALE = "cls_token", "reg_token", "blocks.0.ls1.scale_factor"


def read_tower(
    directory: Path, identity: str, shapes: Mapping[str, tuple[int, ...]], image_size: int, heads: int = 0
) -> VisionTowerConfig:
    """The configuration of a vision tower.

    Args:
        directory: of the checkpoint, for messages.
        identity: timm's name of the network.
        shapes: of its tensors, by their names in it.
        image_size: side of its images [px].
        heads: attention heads; 0: as timm has them, or as towers of this width usually do.

    Raises:
        PolicyError: 207 for a tower that lacks something.
    """
    try:
        dim, _, _, patch = shapes["patch_embed.proj.weight"]
        mlp = shapes["blocks.0.mlp.fc1.weight"][0]
        depth = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("blocks."))
        registers = shapes[_REGISTERS][1] if _REGISTERS in shapes else 0
    except KeyError as error:
        raise unusable(directory, f"missing keys: {error.args[0]} of vision tower {identity}") from error
    except (ValueError, IndexError) as error:
        raise unusable(
            directory, f"vision tower {identity}: names or shapes of its weights: {error}"
        ) from error
    dino = _CLASS in shapes
    if not dino and {_REGISTERS, _SCALE} & shapes.keys():
        raise unusable(directory, f"missing keys: {_CLASS} of vision tower {identity}")
    # Small copies in the released layout keep the name.
    known = next((one for name, one in _KNOWN.items() if (name, one.width) == (identity, dim)), None)
    if known is not None and (depth, registers) != (known.depth, known.registers):
        raise unusable(
            directory,
            f"vision tower {identity} has {depth} blocks and {registers} registers, not {known.depth} and "
            f"{known.registers}: weights are missing",
        )
    try:
        return VisionTowerConfig(
            image_size=image_size,
            patch_size=patch,
            dim=dim,
            depth=depth,
            heads=heads or (known.heads if known else guessed_heads(dim)),
            mlp_dim=mlp,
            registers=registers,
            class_token=dino,
            layer_scale=_SCALE in shapes,
            feature_block=-2,
            mean=_IMAGENET[0] if dino else _SIGLIP[0],
            std=_IMAGENET[1] if dino else _SIGLIP[1],
        )
    except ValidationError as error:
        raise unusable(directory, f"vision tower {identity}: {reason(error)}") from error


def guessed_heads(dim: int) -> int:
    """Heads of a tower that timm does not know by name: 64 wide as in all large ones, 16 wide in small ones."""
    return dim // 64 if dim >= 256 else max(1, dim // 16)
