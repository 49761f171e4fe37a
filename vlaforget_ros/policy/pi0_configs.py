"""The configuration of pi0-FAST, as released and with every part small.

Statistics and FAST tokenizer are the robot's and the checkpoint's: placeholders here.
"""

from __future__ import annotations

from vlaforget_ros.policy.config import ActionNormalisation, FastConfig, PolicyConfig, VisionTowerConfig

# Words of PaliGemma behind Gemma's; FAST tokens lie below the last of them.
LOCATIONS, SEGMENTS = 1024, 128
SKIPPED = 128
VOCABULARY = 257152
# Of the small form: its LM head has the released share of the weights that a token reads (21 %).
SMALL_VOCABULARY = 7756
GEMMA_2B: dict[str, int] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 2048,
    "intermediate_size": 16384,
    "num_hidden_layers": 18,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "pad_token_id": 0,
}
_SMALL: tuple[dict[str, int], dict[str, int]] = (
    {"image_size": 112, "dim": 144, "depth": 4, "heads": 9, "mlp_dim": 540},
    {
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "head_dim": 64,
    },
)
_MINIMAL: tuple[dict[str, int], dict[str, int]] = (
    {"image_size": 28, "dim": 32, "depth": 3, "heads": 4, "mlp_dim": 64},
    {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "head_dim": 16,
    },
)


def pi0_fast_config(statistics: ActionNormalisation, fast: FastConfig, fast_tokens: int) -> PolicyConfig:
    """SigLIP-So400m at 224 px into Gemma-2B: PaliGemma-3B.

    Args:
        statistics: of the robot's actions.
        fast: chunk, cameras, state and FAST tokenizer.
        fast_tokens: how many tokens that has.
    """
    return PolicyConfig(
        model_type="pi0_fast",
        name="pi0_fast",
        featurizer=VisionTowerConfig(
            image_size=224, patch_size=14, dim=1152, depth=27, heads=16, mlp_dim=4304, feature_block=-1
        ),
        language=dict(GEMMA_2B),
        bins=fast_tokens,
        action_vocab_end=VOCABULARY - SKIPPED,
        norm_stats={"robot": statistics},
        fast=fast,
    )


def pi0_fast_small_config(
    statistics: ActionNormalisation,
    fast: FastConfig,
    fast_tokens: int,
    vocabulary: int,
    minimal: bool = False,
) -> PolicyConfig:
    """The same form with every part small.

    Args:
        statistics: as above.
        fast: as above.
        fast_tokens: as above.
        vocabulary: tokens of the text tokenizer.
        minimal: as small as can be, for tests.
    """
    full = pi0_fast_config(statistics, fast, fast_tokens)
    tower, language = _MINIMAL if minimal else _SMALL
    return full.model_copy(
        update={
            "name": "pi0_fast_small",
            "featurizer": full.featurizer.model_copy(update=tower),
            "language": {**GEMMA_2B, **language, "vocab_size": vocabulary},
            "action_vocab_end": vocabulary - SKIPPED,
        }
    )
