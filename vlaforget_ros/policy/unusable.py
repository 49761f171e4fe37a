"""The one error about checkpoints that cannot be used."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

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
        limit="a folder as `vlaforget train` writes it, or as OpenVLA, OpenVLA-OFT or pi0-FAST come (docs/models.md)",
        remedy=remedy,
    )


def reason(error: Exception) -> str:
    """Why a file does not fit, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
    return f"{type(error).__name__}: {error}"
