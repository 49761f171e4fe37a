"""Work on the next items while the present one is looked at."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Ahead(Generic[_Item, _Result]):
    """Results for some items in order, the next ones made by other threads while the one before is in use.

    It pays where the work lets other threads run: reading, unpacking, checksums. The threads start with the second
    item. Use it as a context manager.

    Args:
        work: makes the result for an item; may be called by several threads at once.
        items: in the order in which their results will be asked for.
        depth: how many are made ahead, each by a thread of its own.
    """

    def __init__(self, work: Callable[[_Item], _Result], items: Sequence[_Item], depth: int = 1) -> None:
        self._work, self._items, self._depth = work, items, depth
        self._begun = 0
        self._pool: ThreadPoolExecutor | None = None
        self._futures: deque[Future[_Result]] = deque()

    def __enter__(self) -> Ahead[_Item, _Result]:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def next(self) -> _Result:
        """The result for the next item; raises what making it raised."""
        try:
            if self._futures:
                return self._futures.popleft().result()
            self._begun += 1
            return self._work(self._items[self._begun - 1])
        finally:
            while self._begun < len(self._items) and len(self._futures) < self._depth:
                self._pool = self._pool or ThreadPoolExecutor(self._depth, "next")
                self._futures.append(self._pool.submit(self._work, self._items[self._begun]))
                self._begun += 1
