"""The base that an edit works on: weights of the policy that serves beside it, or a copy of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vlaforget_ros.errors import ErrorCode, PolicyError
from vlaforget_ros.policy.borrower import Borrowed, borrow
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.room import copied_mb
from vlaforget_ros.unlearning.request import Request
from vlaforget_ros.unlearning.room import require_room


@dataclass(frozen=True)
class Base:
    """A policy to edit.

    Args:
        policy: of the checkpoint.
        lender: process whose weights these are; 0: of this one.
        message: for a person: whose they are and why; "" where they are mapped from their files, as always on the CPU.
        lost: whether they must not be used any more.
    """

    policy: VlaPolicy
    lender: int = 0
    message: str = ""
    lost: Callable[[], bool] = lambda: False

    @property
    def shared(self) -> bool:
        """Whether they are another process's."""
        return self.lender != 0


@contextmanager
def base_of(request: Request, share: bool) -> Iterator[Base]:
    """The policy of a request's base for as long as the context lasts.

    Args:
        request: names base, device and budget.
        share: use the weights of a process of this user that lends them, where loading them would make a copy.

    Raises:
        PolicyError: 207 for an unusable checkpoint.
        UnlearningError: 306 where nobody lends them and there is no room for a copy.
    """
    folder, device = Path(request.base), request.device
    copied = copied_mb(folder, device)
    why = "" if share else "sharing is switched off"
    borrowed: Borrowed | None = None
    if share and copied:
        try:
            borrowed = borrow(folder, device)
        except PolicyError as error:
            if error.code != ErrorCode.POLICY_NOT_SHARED:
                raise
            why = error.message if error.value is None else f"{error.message}: {error.value}"
    if borrowed is not None:
        try:
            message = (
                f"the base weights ({borrowed.bytes / 1e6:.0f} MB) are those of process {borrowed.lender}"
            )
            yield Base(borrowed.policy, borrowed.lender, message, borrowed.gone)
        finally:
            borrowed.close()
        return
    require_room(folder, device, request.budget.memory_mb, why=why)
    message = f"the edit has its own copy of the base weights ({copied:.0f} MB): {why}" if copied else ""
    yield Base(VlaPolicy.load(folder, device), message=message)
