"""Whether recorded actions can be the policy's: as many numbers, and of the size that it knows.

A bag holds what the policy itself did. A data set from elsewhere may hold other joints, or degrees for radians.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from vlaforget_ros.episodes.types import Episode
from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.policy.config import ActionNormalisation

FOREIGN_SHARE = 0.5
"""Share of a dimension's values far outside of the policy's range from which on they are called foreign."""


def require_actions(episodes: Iterable[Episode], known: ActionNormalisation) -> None:
    """Whether every episode has actions of the policy's size.

    Raises:
        UnlearningError: 300 naming the first that has not.
    """
    size = len(known.names)
    for episode in episodes:
        if episode.actions.shape[1] != size:
            raise UnlearningError(
                ErrorCode.UNLEARNING_BAD_REQUEST,
                f"actions of episode {episode.rollout_id} of {episode.source} are not the policy's",
                value=f"{episode.actions.shape[1]} numbers",
                limit=f"{size}: {', '.join(known.names)}",
                remedy="leave this recording out, or bring its actions into the policy's order and units",
            )


def foreign_units(episodes: Sequence[Episode], known: ActionNormalisation) -> list[str]:
    """A remark for each recording whose actions are mostly far outside of what the policy can express.

    Far outside is beyond q01 .. q99 of the policy's training data by more than the width of that range.
    """
    remarks = []
    low, high = np.array(known.q01), np.array(known.q99)
    width = high - low
    for source in dict.fromkeys(episode.source for episode in episodes):
        actions = np.concatenate([episode.actions for episode in episodes if episode.source == source])
        outside = (actions < low - width) | (actions > high + width)
        share = np.where(known.mask, outside.mean(axis=0), 0.0)
        if len(actions) and share.max() > FOREIGN_SHARE:
            worst = int(share.argmax())
            seen = f"{actions[:, worst].min():.3g} .. {actions[:, worst].max():.3g}"
            remarks.append(
                f"actions of {source} may be in other units than the policy's: {share[worst]:.0%} of "
                f"{known.names[worst]} ({seen}) lie far outside of {low[worst]:.3g} .. {high[worst]:.3g} "
                f"{known.units[worst]}".rstrip()
            )
    return remarks
