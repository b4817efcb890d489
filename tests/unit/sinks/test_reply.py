"""A log as jobs: all lines, in order, while their queue is there or comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

import consumer.sinks.reply as module
from consumer.sinks.reply import ReplySink, Shared
from enqueue.errors import QueueUnavailable


class Queue:
    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.jobs: list[tuple[int, list[bytes]]] = []
        self.changed = asyncio.Event()

    async def push(self, job: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise QueueUnavailable("away")
        self.jobs.append((job["line"], job["lines"]))
        self.changed.set()

    async def has(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.jobs) < count:
                self.changed.clear()
                await self.changed.wait()


def make(line: int, lines: Sequence[bytes], now: float) -> dict[str, Any]:
    return {"line": line, "lines": list(lines)}


async def test_the_first_lines_go_at_once_and_all_in_order() -> None:
    queue = Queue()
    sink = ReplySink(queue.push, make, interval=1000)
    await sink.write(b"one\n")
    await queue.has(1)
    await sink.write(b"two\n\nfo")
    await sink.write(b"ur")
    assert queue.jobs == [(0, [b"one"])]
    await sink.finish()
    assert queue.jobs == [(0, [b"one"]), (1, [b"two", b"", b"four"])]


async def test_lines_go_by_themselves_after_a_while() -> None:
    queue = Queue()
    sink = ReplySink(queue.push, make, interval=0.01)
    await sink.write(b"one\n")
    await sink.write(b"two\n")
    await queue.has(2)
    assert queue.jobs == [(0, [b"one"]), (1, [b"two"])]
    await sink.finish()


async def test_what_the_queue_didnt_take_comes_again() -> None:
    queue = Queue(failures=2)
    sink = ReplySink(queue.push, make, interval=1000)
    await sink.write(b"one\n")
    await sink.write(b"two\n")
    await sink.finish()
    assert queue.jobs == [(0, [b"one"]), (1, [b"two"])]


async def test_what_the_queue_hasnt_taken_in_time_is_left_to_the_jobs_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNWELL", 0.01)
    queue, shared = Queue(failures=1000), Shared()
    sink = ReplySink(queue.push, make, interval=1000, shared=shared)
    await sink.write(b"one\n")
    await sink.write(b"two\nhalf")
    await sink.finish()
    assert sink.unsent == ({"line": 0, "lines": [b"one"]}, {"line": 1, "lines": [b"two", b"half"]})
    assert shared.waiting == 0
    assert not queue.jobs


async def test_who_lets_go_of_a_log_sends_what_the_next_one_wont() -> None:
    queue = Queue()
    sink = ReplySink(queue.push, make, interval=1000)
    await sink.write(b"one\n")
    await sink.write(b"two\nhalf")
    await sink.abandon()
    assert queue.jobs == [(0, [b"one"]), (1, [b"two"])]
    await sink.abandon()
    await ReplySink(queue.push, make).abandon()
    assert len(queue.jobs) == 2


async def test_all_logs_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 1)
    monkeypatch.setattr(module, "SHARED", 45)
    monkeypatch.setattr(module, "UNWELL", 0.01)
    queue, shared = Queue(failures=1000), Shared()
    sinks = [ReplySink(queue.push, make, shared=shared) for _ in range(3)]
    for number in range(4):
        for sink in sinks:
            await sink.write(b"%010d\n" % number)
    assert shared.waiting <= 45
    for sink in sinks:
        await sink.finish()
        assert sink.unsent[-1] == {"line": 3, "lines": [b"%010d" % 3]}
    assert shared.waiting == 0


@pytest.mark.parametrize("back", [True, False])
async def test_of_too_much_the_oldest_is_dropped(monkeypatch: pytest.MonkeyPatch, back: bool) -> None:
    monkeypatch.setattr(module, "UNWELL", 10.0 if back else 0.01)
    monkeypatch.setattr(module, "BATCH", 1)
    monkeypatch.setattr(module, "WAITING", 25)
    queue = Queue(failures=1 if back else 1000)
    sink = ReplySink(queue.push, make, interval=1000, notices=True)
    for number in range(4):
        await sink.write(b"%010d\n" % number)
    await sink.finish()
    sent = queue.jobs if back else [(job["line"], job["lines"]) for job in sink.unsent]
    notice = b"longshore: 2 lines are missing here: Faktory was away for too long"
    assert sent == [(2, [notice, b"%010d" % 2]), (3, [b"%010d" % 3])]
