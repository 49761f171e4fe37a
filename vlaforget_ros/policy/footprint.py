"""Memory that frames take on their way through a policy, beside its weights: from its shapes, to choose how many go
together.

Of a transformer block 10 D + 3 I numbers are counted for each token (attention and its projections, norms, residuals:
D wide; the three products of the MLP: I wide), without an attention matrix, which fused attention does not keep.
"""

from __future__ import annotations

from typing import Literal

from vlaforget_ros.policy.config import PolicyConfig

Kind = Literal["looking", "deciding", "training", "recomputing"]
# Text tokens of a prompt that is longer than most.
_WORDS = 64


def block_bytes(tokens: int, width: int, inner: int, size: int = 2) -> int:
    """Activations of one block [B].

    Args:
        tokens: positions.
        width: of the residual stream, D.
        inner: of the MLP, I.
        size: of a number [B].
    """
    return tokens * (10 * width + 3 * inner) * size


def frame_bytes(config: PolicyConfig, size: int, kind: Kind, skipped: int = 0, towers: bool = True) -> int:
    """What one frame takes [B], about.

    Args:
        config: of the policy.
        size: of a number of its weights [B].
        kind: ``looking``: one pass without gradients, of which a block at a time is there; ``deciding``: a whole
            action with the keys and values of all blocks; ``training``: a pass of which every block is kept;
            ``recomputing``: one of which the blocks' inputs are kept, and one block.
        skipped: language blocks, from the bottom, that the pass leaves out.
        towers: whether it runs the vision towers.
    """
    language = config.language
    width, inner, depth = (
        int(language[k]) for k in ("hidden_size", "intermediate_size", "num_hidden_layers")
    )
    heads = int(language["num_attention_heads"])
    of_head = int(language.get("head_dim") or width // heads)
    groups = int(language.get("num_key_value_heads") or heads)
    numbers = config.fast.action_tokens if config.fast else config.chunk * _dims(config)
    tokens = config.image_tokens + _WORDS + numbers
    # Of each part: blocks, activations of one, its input.
    parts = [(depth - skipped, block_bytes(tokens, width, inner, size), tokens * width * size)]
    for tower in config.towers if towers else ():
        seen = config.cameras * (tower.patches + tower.registers + 1)
        parts.append(
            (tower.depth, block_bytes(seen, tower.dim, tower.mlp_dim, size), seen * tower.dim * size)
        )
    if kind == "training":
        return sum(count * block for count, block, _ in parts)
    live = max(block for _, block, _ in parts)
    if kind == "recomputing":
        return live + sum(count * own for count, _, own in parts)
    return live + (2 * depth * groups * of_head * tokens * size if kind == "deciding" else 0)


def _dims(config: PolicyConfig) -> int:
    return max(len(entry.q01) for entry in config.norm_stats.values())
