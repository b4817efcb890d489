"""A thread of our own for what may block: a hung disk or terminal must not use up the threads that jobs need."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
_Task = tuple[Callable[[], Any], asyncio.Future[Any] | None, asyncio.AbstractEventLoop | None]


class Hand:
    """Does one thing after the other. A daemon: it never keeps the process from ending."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._todo: queue.SimpleQueue[_Task] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def later(self, action: Callable[[], object]) -> None:
        """Once all that came before is done; nobody waits for it, nor hears of its error."""
        if self._thread is not None:
            self._todo.put((action, None, None))

    async def do(self, action: Callable[[], T]) -> T:
        """Its result, or its error."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._todo.put((action, future, loop))
        return await future

    def _work(self) -> None:
        while True:
            action, future, loop = self._todo.get()
            if future is not None and future.cancelled():
                continue
            try:
                result, error = action(), None
            except Exception as problem:
                result, error = None, problem
            if loop is None or future is None:
                continue
            try:
                loop.call_soon_threadsafe(_tell, future, result, error)
            except RuntimeError:  # the loop is closed: nobody waits any more
                continue


def _tell(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
