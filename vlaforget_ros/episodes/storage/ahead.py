"""Work on the next item while the present one is looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Ahead(Generic[_Item, _Result]):
    """Results for some items in order, each made by another thread while the one before is in use.

    It pays where the work lets other threads run: reading, unpacking, checksums. The thread starts with the second
    item. Use it as a context manager.

    Args:
        work: makes the result for an item.
        items: in the order in which their results will be asked for.
    """

    def __init__(self, work: Callable[[_Item], _Result], items: Sequence[_Item]) -> None:
        self._work, self._items = work, items
        self._asked = 0
        self._pool: ThreadPoolExecutor | None = None
        self._future: Future[_Result] | None = None

    def __enter__(self) -> Ahead[_Item, _Result]:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def next(self) -> _Result:
        """The result for the next item; raises what making it raised."""
        number, future = self._asked, self._future
        self._asked, self._future = number + 1, None
        try:
            return self._work(self._items[number]) if future is None else future.result()
        finally:
            if number + 1 < len(self._items):
                self._pool = self._pool or ThreadPoolExecutor(1, "next")
                self._future = self._pool.submit(self._work, self._items[number + 1])
