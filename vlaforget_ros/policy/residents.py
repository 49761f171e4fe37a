"""Which adapters lie in the policy's memory, which one is active, and what a rollback goes back to."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable

from vlaforget_ros.errors import AdapterError, ErrorCode, PolicyError
from vlaforget_ros.policy.slots import StagedAdapter

_DEPTH = 16


class _Memory:
    """What the residents of all arms of a model share: the staged adapters and their limits."""

    def __init__(self, limit: int, limit_bytes: int) -> None:
        self.limit, self.limit_bytes = limit, limit_bytes
        self.lock = threading.Lock()
        self.staged: OrderedDict[str, StagedAdapter] = OrderedDict()
        self.arms: list[Residents] = []

    def shrink(self, limit: int, limit_bytes: int | None, *also: str) -> int:
        """Drop what no arm keeps, the least recently used first; returns how many were dropped. Hold the lock."""
        kept = {digest for arm in self.arms for digest in arm.kept()} | set(also)
        doomed = []
        for digest in [digest for digest in self.staged if digest not in kept]:
            held = sum(staged.bytes for staged in self.staged.values())
            if len(self.staged) <= limit and (limit_bytes is None or held <= limit_bytes):
                break
            del self.staged[digest]
            doomed.append(digest)
        for arm in self.arms:
            arm.forget(doomed)
        return len(doomed)


class Residents:
    """Least-recently-used set of staged adapters with a stack of earlier ones. Safe in any thread.

    The base model "" is always resident and needs no place. The active adapter and the one before it are
    never dropped, so a rollback needs no disk and no memory. An older entry of the stack that was dropped is
    skipped. A routed adapter stands in for the active one for a while, a rollout of a canary, and leaves no trace on
    the stack: a rollback then ends the stand-in.

    Args:
        limit: how many staged adapters to keep, 2 or more.
        limit_bytes: memory [B] that they may take together; 0: any.
        memory: shared with other arms, in place of the limits; see :meth:`beside`.

    The active adapter, the one before it and the pinned ones stay even beyond the limits. Where a model serves several
    arms, each has residents of its own (:meth:`beside`): they share the memory, and what one arm keeps, no other drops.

    Raises:
        PolicyError: 208 for a limit below 2.
    """

    def __init__(self, limit: int, limit_bytes: int = 0, *, memory: _Memory | None = None) -> None:
        if limit < 2:
            raise PolicyError(
                ErrorCode.POLICY_BAD_PARAMETER,
                "resident_limit",
                value=limit,
                limit="2 or more",
                remedy="the active adapter and the one to roll back to both stay in memory",
            )
        self._memory = memory = memory or _Memory(limit, limit_bytes)
        self._lock, self._staged = memory.lock, memory.staged
        self._pinned: frozenset[str] = frozenset()
        self._active = ""
        self._routed: str | None = None
        self._earlier: list[str] = []
        with self._lock:
            memory.arms.append(self)

    def beside(self) -> Residents:
        """Residents of another arm in the same memory; they serve the base model."""
        return Residents(self._memory.limit, memory=self._memory)

    def leave(self) -> None:
        """This arm is served no more: what only it needed may go."""
        with self._lock:
            self._memory.arms.remove(self)
            self._shrink()

    def kept(self) -> set[str]:
        """Digests that must stay for this arm. Hold the lock of the memory."""
        return {self._active, self._routed or "", *self._earlier[-1:], *self._pinned}

    def forget(self, doomed: Collection[str]) -> None:
        """Take dropped adapters off what a rollback can go to. Hold the lock of the memory."""
        self._earlier = [digest for digest in self._earlier if digest not in doomed]

    @property
    def active(self) -> str:
        """Digest of the adapter that serves: the routed one where there is one."""
        routed = self._routed
        return self._active if routed is None else routed

    @property
    def serving(self) -> StagedAdapter | None:
        """The adapter that serves; None: the base model."""
        with self._lock:
            return self._staged.get(self.active)

    @property
    def previous(self) -> str | None:
        """Digest that a rollback goes to; None where there is nothing to go back to."""
        with self._lock:
            if self._routed is not None:
                return self._active
            return self._earlier[-1] if self._earlier else None

    @property
    def digests(self) -> tuple[str, ...]:
        """Digests in memory, the base model not counted, least recently used first."""
        with self._lock:
            return tuple(self._staged)

    def get(self, digest: str) -> StagedAdapter | None:
        """The staged adapter, or None where it is not resident."""
        with self._lock:
            return self._staged.get(digest)

    def keep(self, staged: StagedAdapter) -> None:
        """Take an adapter into memory that does not serve (yet)."""
        with self._lock:
            self._staged[staged.digest] = staged
            self._staged.move_to_end(staged.digest)
            self._shrink(staged.digest)

    def routed(self, digest: str, staged: StagedAdapter | None) -> None:
        """Note that an adapter (None: the base model) stands in for the active one."""
        with self._lock:
            self._routed = None if digest == self._active else digest
            if staged is not None:
                self._staged[digest] = staged
                self._staged.move_to_end(digest)
            self._shrink()

    def unrouted(self) -> tuple[str, StagedAdapter | None]:
        """Note that the active adapter serves itself again; returns it."""
        with self._lock:
            self._routed = None
            return self._active, self._staged[self._active] if self._active else None

    def swapped(self, digest: str, staged: StagedAdapter | None) -> None:
        """Note that an adapter (None: the base model) became active."""
        with self._lock:
            self._routed = None
            if digest != self._active:
                self._earlier = [*self._earlier, self._active][-_DEPTH:]
            self._activate(digest, staged)

    def before(self) -> tuple[str, StagedAdapter | None]:
        """Digest and staged adapter to roll back to.

        Raises:
            AdapterError: 109 where no swap came before.
        """
        with self._lock:
            if self._routed is not None:
                return self._active, self._staged[self._active] if self._active else None
            if not self._earlier:
                raise AdapterError(
                    ErrorCode.ADAPTER_NO_PREVIOUS,
                    "there is no adapter to roll back to",
                    value=self._active or "base",
                    remedy="swap to a known adapter or to base; stop the arm if it misbehaves",
                )
            digest = self._earlier[-1]
            return digest, self._staged[digest] if digest else None

    def rolled_back(self) -> None:
        """Note that the adapter of :meth:`before` became active."""
        with self._lock:
            if self._routed is not None:
                self._routed = None
                return
            digest = self._earlier.pop()
            self._activate(digest, self._staged[digest] if digest else None)

    def pin(self, digests: Iterable[str]) -> None:
        """Say which adapters stay in memory once they are there, in place of those said before."""
        with self._lock:
            self._pinned = frozenset(digests)

    def forget_base(self) -> None:
        """Take the base model off what a rollback can go to."""
        with self._lock:
            self._earlier = [digest for digest in self._earlier if digest]

    def drop_idle(self) -> int:
        """Free all but the active and the previous adapters of all arms, pinned ones as well; returns how many."""
        with self._lock:
            for arm in self._memory.arms:
                arm._pinned = frozenset()
            return self._memory.shrink(0, 0)

    def _activate(self, digest: str, staged: StagedAdapter | None) -> None:
        self._active = digest
        if staged is not None:
            self._staged[digest] = staged
            self._staged.move_to_end(digest)
        self._shrink()

    def _shrink(self, *also: str) -> None:
        self._memory.shrink(self._memory.limit, self._memory.limit_bytes or None, *also)
