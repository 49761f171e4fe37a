"""What was loaded is out of the garbage collector's sight while a policy serves, and in it again afterwards."""

from __future__ import annotations

import gc

from vlaforget_ros.policy.memory import settle, unsettle


def test_what_is_settled_is_not_looked_at_until_it_is_unsettled() -> None:
    before = gc.get_freeze_count()
    settle()
    try:
        assert gc.get_freeze_count() > before + 1000
        assert len(gc.get_objects()) < 1000
    finally:
        unsettle()
    assert gc.get_freeze_count() == 0
