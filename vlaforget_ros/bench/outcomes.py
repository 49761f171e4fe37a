"""From rollouts to figures; attacks count the same way, so it is theirs too."""

from vlaforget_ros.attacks.outcomes import of_situations, outcomes, percent, snake

__all__ = ["of_situations", "outcomes", "percent", "snake"]
