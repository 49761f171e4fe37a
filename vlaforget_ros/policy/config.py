"""Configuration of a policy: one form for the embedded ``tiny`` model, OpenVLA-7B, OpenVLA-OFT and pi0-FAST."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vlaforget_ros.policy.unusable import reason

# No policy has more; beyond these a file is wrong, and believing it would fill the memory.
Width = Annotated[int, Field(gt=0, le=1 << 20)]
Depth = Annotated[int, Field(gt=0, le=1000)]
Ticks = Annotated[int, Field(gt=0, le=1000)]
Cameras = Annotated[int, Field(gt=0, le=16)]
Tokens = Annotated[int, Field(gt=0, le=1 << 14)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class VisionTowerConfig(_Frozen):
    """A Vision Transformer with timm's key names.

    ``stem_channels`` puts strided 3x3 convolutions in front of the patch projection (small models learn to see in
    minutes with them); empty is the plain ViT of OpenVLA. ``feature_block`` is the block whose output is the
    feature: -2 in OpenVLA, whose last block is therefore unused.
    """

    image_size: Width = 64
    patch_size: Width = 16
    dim: Width = 128
    depth: Depth = 2
    heads: Width = 4
    mlp_dim: Width = 512
    registers: int = Field(default=0, ge=0)
    class_token: bool = False
    layer_scale: bool = False
    feature_block: int = -1
    stem_channels: tuple[Width, ...] = ()
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @property
    def patches(self) -> int:
        """Number of patch tokens."""
        return (self.image_size // self.patch_size) ** 2

    @model_validator(mode="after")
    def _check(self) -> VisionTowerConfig:
        if self.dim % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.dim}")
        if not -self.depth <= self.feature_block < self.depth:
            raise ValueError(f"feature_block {self.feature_block} is none of {self.depth} blocks")
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}")
        if self.patch_size % 2 ** len(self.stem_channels):
            raise ValueError(
                f"{len(self.stem_channels)} stem layers do not divide patch_size {self.patch_size}"
            )
        return self


class ActionNormalisation(_Frozen):
    """Statistics that map bins in [-1, 1] to robot units, one entry per action dimension.

    Where ``mask`` is false the value in [-1, 1] is passed on raw (the gripper in OpenVLA). ``gripper`` libero: the last
    dimension is 0 (closed) to 1 (open) in the model's training data, and +1 (close) or -1 (open) for the robot.

    ``kind`` motion: numbers say how far to move, ``hold`` is the action that moves nothing. ``kind`` position: numbers
    are where to be, as the robot's state has them; no constant keeps such an arm where it is.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    q01: tuple[float, ...]
    q99: tuple[float, ...]
    mask: tuple[bool, ...]
    hold: tuple[float, ...]
    gripper: Literal["as_is", "libero"] = "as_is"
    kind: Literal["motion", "position"] = "motion"

    @model_validator(mode="after")
    def _check(self) -> ActionNormalisation:
        lengths = {
            len(self.names),
            len(self.units),
            len(self.q01),
            len(self.q99),
            len(self.mask),
            len(self.hold),
        }
        if len(lengths) != 1:
            raise ValueError("names, units, q01, q99, mask and hold must have one entry per action dimension")
        for name, low, high, masked in zip(self.names, self.q01, self.q99, self.mask, strict=True):
            if masked and not high > low:
                raise ValueError(f"{name}: q99 {high} must be greater than q01 {low}")
        return self


class ProprioNormalisation(_Frozen):
    """Bounds that map the robot's state to [-1, 1]; where ``mask`` is false a value is passed on raw."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    mask: tuple[bool, ...]

    @model_validator(mode="after")
    def _check(self) -> ProprioNormalisation:
        if len({len(self.low), len(self.high), len(self.mask)}) != 1:
            raise ValueError("low, high and mask must have one entry per dimension of the state")
        for place, (low, high, masked) in enumerate(zip(self.low, self.high, self.mask, strict=True)):
            if masked and high < low:
                raise ValueError(
                    f"number {place} of the state: {high} is the upper bound, {low} the lower one"
                )
        return self


class OftConfig(_Frozen):
    """What OpenVLA-OFT adds (Kim et al. 2025, arXiv 2502.19645).

    One inference decides ``chunk`` actions at once; ``images`` cameras are looked at; ``proprio`` says how the robot's
    state is scaled, None where the policy is not told it.
    """

    chunk: Ticks
    images: Cameras = 1
    proprio: ProprioNormalisation | None = None


class FastConfig(_Frozen):
    """What pi0-FAST adds (Pertsch et al. 2025, arXiv 2501.09747, in the form of lerobot's ``pi0_fast``).

    One inference decides ``chunk`` actions; ``images`` cameras are looked at; the robot's state is told in words, as
    ``state_slots`` numbers of 0 to 255. ``bpe`` is the FAST tokenizer as JSON; its characters are coefficients of a
    cosine transform over time, times ``scale``, less ``lowest``. ``border`` fills what an image leaves of the square.
    """

    chunk: Ticks
    images: Cameras = 1
    proprio: ProprioNormalisation
    state_slots: int = Field(gt=0, le=1000)
    border: float = -1.0
    prompt_tokens: Tokens = 200
    action_tokens: Tokens = 256
    scale: float = Field(default=10.0, gt=0)
    lowest: int = Field(default=0, ge=-(1 << 16), le=1 << 16)
    bpe: str

    @model_validator(mode="after")
    def _check(self) -> FastConfig:
        if len(self.proprio.low) > self.state_slots:
            raise ValueError(
                f"a state of {len(self.proprio.low)} numbers does not fit {self.state_slots} slots"
            )
        return self


class _LanguageSizes(BaseModel):
    """What sizes a language model, with the defaults of ``LlamaConfig``, which knows the other arguments."""

    model_config = ConfigDict(extra="ignore")

    vocab_size: Width
    pad_token_id: int = Field(ge=0)
    hidden_size: Width = 4096
    intermediate_size: Width = 11008
    num_hidden_layers: Depth = 32
    num_attention_heads: Width = 32
    num_key_value_heads: Width | None = None
    head_dim: Width | None = None

    @model_validator(mode="after")
    def _check(self) -> _LanguageSizes:
        heads = self.num_attention_heads
        if self.head_dim is None and self.hidden_size % heads:
            raise ValueError(f"num_attention_heads {heads} does not divide hidden_size {self.hidden_size}")
        if heads % (self.num_key_value_heads or heads):
            raise ValueError(f"num_key_value_heads {self.num_key_value_heads} does not divide {heads} heads")
        if self.pad_token_id >= self.vocab_size:
            raise ValueError(f"pad_token_id {self.pad_token_id} is none of {self.vocab_size} words")
        return self


class PolicyConfig(_Frozen):
    """Everything that is not a weight.

    ``language`` holds keyword arguments of transformers' ``LlamaConfig`` (pi0-FAST: ``GemmaConfig``); ``vocab_size`` in
    it counts padding, ``action_vocab_end`` is one past the last action token (32000 in OpenVLA), below which the
    ``bins`` lie. ``centre_crop`` is the share of the image's area that the model is shown. ``oft`` is there for
    OpenVLA-OFT only, ``fast`` for pi0-FAST only.
    """

    model_type: str = "openvla"
    name: str = "tiny"
    featurizer: VisionTowerConfig = Field(default_factory=VisionTowerConfig)
    fused_featurizer: VisionTowerConfig | None = None
    language: dict[str, Any]
    bins: int = Field(default=256, ge=2)
    action_vocab_end: int
    prompt_suffix_id: int | None = None
    centre_crop: float = Field(default=1.0, gt=0, le=1)
    norm_stats: dict[str, ActionNormalisation] = Field(min_length=1)
    oft: OftConfig | None = None
    fast: FastConfig | None = None

    @model_validator(mode="after")
    def _check(self) -> PolicyConfig:
        try:
            words = _LanguageSizes.model_validate(self.language).vocab_size
        except ValidationError as error:
            raise ValueError(f"language model: {reason(error)}") from error
        if not self.bins <= self.action_vocab_end <= words:
            first, last = self.action_vocab_end - self.bins, self.action_vocab_end - 1
            raise ValueError(
                f"{self.bins} action tokens, ids {first}..{last}: the language model has {words} words"
            )
        told = len(self.state.low) if self.state else 0
        for key, stats in self.norm_stats.items():
            if stats.kind == "position" and len(stats.q01) != told:
                raise ValueError(
                    f"{key}: actions of {len(stats.q01)} numbers cannot be positions in a state of {told}"
                )
        return self

    @property
    def extra(self) -> OftConfig | FastConfig | None:
        """What policies with chunks, cameras and states add; None for one image to one action."""
        return self.oft or self.fast

    @property
    def chunk(self) -> int:
        """How many actions one inference decides."""
        return self.extra.chunk if self.extra else 1

    @property
    def cameras(self) -> int:
        """How many cameras are looked through."""
        return self.extra.images if self.extra else 1

    @property
    def state(self) -> ProprioNormalisation | None:
        """How the robot's state is scaled; None where the policy is not told it."""
        return self.extra.proprio if self.extra else None

    @property
    def view_shape(self) -> tuple[int, ...]:
        """Of what the cameras see at one time: (S, S, 3), of several (images, S, S, 3)."""
        size = self.featurizer.image_size
        return (size, size, 3) if self.cameras == 1 else (self.cameras, size, size, 3)

    @property
    def zero_state(self) -> np.ndarray | None:
        """(P,) a state of zeros, for trials; None where the policy is not told one."""
        return None if self.state is None else np.zeros(len(self.state.low))

    @property
    def image_tokens(self) -> int:
        """Positions that are no words: patches of all images, and OpenVLA-OFT's state."""
        told = self.oft is not None and self.oft.proprio is not None
        return self.cameras * self.featurizer.patches + told

    @property
    def vision_dim(self) -> int:
        """Width of the concatenated visual features."""
        fused = self.fused_featurizer.dim if self.fused_featurizer else 0
        return self.featurizer.dim + fused

    @property
    def towers(self) -> tuple[VisionTowerConfig, ...]:
        """The vision towers in channel order."""
        return (self.featurizer, *((self.fused_featurizer,) if self.fused_featurizer else ()))
