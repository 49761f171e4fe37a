"""Vision towers of which config.json says little more than timm's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlaforget_ros.errors import ErrorCode, PolicyError
from vlaforget_ros.policy.towers import guessed_heads, read_tower

DINO, SIGLIP = "vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"
Shapes = dict[str, tuple[int, ...]]


def _shapes(dim: int, depth: int, registers: int = 0) -> Shapes:
    """Those that are looked at."""
    found: Shapes = {"patch_embed.proj.weight": (dim, 3, 14, 14)}
    found |= {f"blocks.{place}.mlp.fc1.weight": (4 * dim, dim) for place in range(depth)}
    if registers:
        found |= {"cls_token": (1, 1, dim), "reg_token": (1, registers, dim)}
        found |= {"blocks.0.ls1.scale_factor": (dim,)}
    return found


def test_the_two_of_the_release() -> None:
    dino = read_tower(Path(), DINO, _shapes(1024, 24, 4), 224)
    assert (dino.depth, dino.heads, dino.registers, dino.class_token, dino.mean[0]) == (
        24,
        16,
        4,
        True,
        0.485,
    )
    siglip = read_tower(Path(), SIGLIP, _shapes(1152, 27), 224)
    assert (siglip.depth, siglip.heads, siglip.registers, siglip.class_token) == (27, 16, 0, False)
    assert (siglip.patches, siglip.mlp_dim, siglip.mean[0]) == (256, 4608, 0.5)


def test_heads_of_towers_without_a_known_name() -> None:
    # 16 wide where a tower is narrow, 64 wide from 256 on.
    assert [guessed_heads(dim) for dim in (48, 64, 1024, 1152)] == [3, 4, 16, 18]
    assert read_tower(Path(), "other", _shapes(64, 3), 28).heads == 4
    assert read_tower(Path(), "other", _shapes(64, 3), 28, heads=8).heads == 8
    # A small copy that kept the name is none of the release.
    assert read_tower(Path(), SIGLIP, _shapes(64, 3), 28).heads == 4


def _without(shapes: Shapes, *names: str) -> Shapes:
    return {name: shape for name, shape in shapes.items() if not name.startswith(names)}


@pytest.mark.parametrize(
    ("identity", "shapes", "says"),
    [
        (DINO, _without(_shapes(1024, 24, 4), "blocks.23"), "23 blocks and 4 registers, not 24 and 4"),
        (DINO, _without(_shapes(1024, 24, 4), "reg_token"), "24 blocks and 0 registers, not 24 and 4"),
        (DINO, _without(_shapes(1024, 24, 4), "cls_token"), "missing keys: cls_token"),
        ("other", _without(_shapes(64, 3, 2), "cls_token"), "missing keys: cls_token"),
        ("other", _without(_shapes(64, 3), "patch"), "missing keys: patch_embed.proj.weight"),
        ("other", _without(_shapes(64, 3), "blocks.0"), "missing keys: blocks.0.mlp.fc1.weight"),
        ("other", {**_shapes(64, 3), "blocks.x.mlp.fc1.weight": (1, 1)}, "names or shapes"),
        ("other", {**_shapes(64, 3), "patch_embed.proj.weight": (64,)}, "names or shapes"),
    ],
)
def test_a_tower_that_is_not_whole_is_refused(identity: str, shapes: Shapes, says: str) -> None:
    with pytest.raises(PolicyError, match=says) as caught:
        read_tower(Path(), identity, shapes, 28)
    assert caught.value.code == ErrorCode.POLICY_BAD_CHECKPOINT


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(PolicyError, match="5 heads do not divide a width of 64"):
        read_tower(Path(), "other", _shapes(64, 3), 28, heads=5)
