"""Episodes for policies that decide several control ticks at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vlaforget_ros.episodes.types import Episode


def chunked(episode: Episode, chunk: int) -> Episode:
    """The episode as a policy with chunks would have to answer each of its images.

    Args:
        episode: with actions (T, A).
        chunk: control ticks of an answer; 1 changes nothing.

    Returns:
        the episode with actions (T, chunk * A): that of the image and the following ones; behind the end of the
        episode the last one goes on. (OpenVLA-OFT is trained without the frames whose chunk passes the end. Here an
        incident often is the end, and the frames just before it matter most.)
    """
    if chunk == 1 or not len(episode):
        return episode
    steps = np.minimum(np.arange(len(episode))[:, None] + np.arange(chunk), len(episode) - 1)
    return replace(episode, actions=episode.actions[steps].reshape(len(episode), -1))
