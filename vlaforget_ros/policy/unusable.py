"""The one error about checkpoints that cannot be used."""

from __future__ import annotations

from pathlib import Path

from vlaforget_ros.errors import ErrorCode, PolicyError


def unusable(
    directory: Path, message: str, remedy: str = "give the folder of a whole checkpoint"
) -> PolicyError:
    """PolicyError 207 about a checkpoint folder.

    Args:
        directory: of the checkpoint.
        message: what is wrong with it.
        remedy: what to do.
    """
    return PolicyError(
        ErrorCode.POLICY_BAD_CHECKPOINT,
        f"unusable checkpoint: {message}",
        value=str(directory),
        limit="a folder as `vlaforget train` writes it, or OpenVLA's released layout (docs/models.md)",
        remedy=remedy,
    )
