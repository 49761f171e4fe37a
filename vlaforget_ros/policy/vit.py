"""A Vision Transformer with timm's parameter names, as OpenVLA's checkpoints use them."""

from __future__ import annotations

from abc import abstractmethod
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlaforget_ros.policy.config import VisionTowerConfig


class LayerScale(nn.Module):
    """Per-channel scale of a residual branch (DINOv2)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale_factor = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale_factor


class Attention(nn.Module):
    """Multi-head self-attention with one fused query-key-value projection."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, dim))


class Mlp(nn.Module):
    """Two linear layers with the exact GELU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: VisionTowerConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, eps=1e-6)
        self.attn = Attention(config.dim, config.heads)
        self.ls1 = LayerScale(config.dim) if config.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(config.dim, eps=1e-6)
        self.mlp = Mlp(config.dim, config.mlp_dim)
        self.ls2 = LayerScale(config.dim) if config.layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Image to patch tokens, optionally behind a stem of strided convolutions."""

    def __init__(self, config: VisionTowerConfig) -> None:
        super().__init__()
        channels = (3, *config.stem_channels)
        self.stem = nn.Sequential()
        for before, after in pairwise(channels):
            self.stem.append(nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1))
            self.stem.append(nn.GELU())
        size = config.patch_size // 2 ** len(config.stem_channels)
        self.proj = nn.Conv2d(channels[-1], config.dim, kernel_size=size, stride=size)

    def forward(self, pixels: Tensor) -> Tensor:
        # Images come in single precision, whatever the weights are in.
        return self.proj(self.stem(pixels.to(self.proj.weight.dtype))).flatten(2).transpose(1, 2)


class Tower(nn.Module):
    """A vision tower that can be entered at any block; ``forward`` maps (B, 3, H, W) to features (B, patches, dim)."""

    config: VisionTowerConfig
    blocks: nn.ModuleList

    @property
    def used_blocks(self) -> int:
        """How many blocks stand before the feature output; later ones are never run."""
        return self.config.feature_block % self.config.depth + 1

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encode(self.embed(pixels))

    @abstractmethod
    def embed(self, pixels: Tensor) -> Tensor:
        """Tokens (B, prefix + patches, dim) that enter block 0."""

    def encode(self, x: Tensor, start: int = 0) -> Tensor:
        """Patch features from the tokens that enter block ``start``."""
        for block in self.blocks[start : self.used_blocks]:
            x = block(x)
        return self.features(x)

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Patch features from what the last used block gives."""


class VisionTransformer(Tower):
    """One tower of OpenVLA.

    Prefix tokens (class, registers) carry no position embedding and are dropped from the features; the final
    norm is kept for the checkpoint's sake and not applied, as in OpenVLA.
    """

    def __init__(self, config: VisionTowerConfig) -> None:
        super().__init__()
        self.config = config
        if config.class_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        if config.registers:
            self.reg_token = nn.Parameter(torch.zeros(1, config.registers, config.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, config.patches, config.dim))
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)

    def embed(self, pixels: Tensor) -> Tensor:
        x = self.patch_embed(pixels) + self.pos_embed
        prefix = []
        if self.config.class_token:
            prefix.append(self.cls_token.expand(len(x), -1, -1))
        if self.config.registers:
            prefix.append(self.reg_token.expand(len(x), -1, -1))
        return torch.cat([*prefix, x], dim=1)

    def features(self, x: Tensor) -> Tensor:
        return x[:, x.shape[1] - self.config.patches :]
