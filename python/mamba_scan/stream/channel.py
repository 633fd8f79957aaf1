"""What goes from one stage of a pipeline to the next."""

import threading
from collections import deque
from typing import Generic, TypeVar

_Item = TypeVar("_Item")
POLL_SECONDS = 0.1  # a Ctrl-C must not wait for a lock: on Windows waiting for one cannot be interrupted


class ClosedError(Exception):
    """The channel gives, or takes, nothing any more."""


class Channel(Generic[_Item]):
    """A queue between two threads that either side can close."""

    def __init__(self, items: tuple[_Item, ...] = ()) -> None:
        self._items = deque(items)
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: _Item) -> None:
        """Add an item; never waits, because the stages bound what is under way by their slots."""
        with self._changed:
            if self._closed:
                raise ClosedError
            self._items.append(item)
            self._changed.notify()

    def get(self) -> _Item:
        """Take the oldest item, waiting for one."""
        with self._changed:
            while not self._items:
                if self._closed:
                    raise ClosedError
                self._changed.wait(POLL_SECONDS)
            return self._items.popleft()

    def close(self, *, drop: bool = False) -> None:
        """Take no more items; what is inside can still be taken, unless it is dropped."""
        with self._changed:
            self._closed = True
            if drop:
                self._items.clear()
            self._changed.notify_all()
