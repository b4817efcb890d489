from __future__ import annotations

import asyncio
import collections
from collections.abc import Sequence

import pytest

from consumer.batch import AT_ONCE, ENOUGH, Batcher
from consumer.tasks import end


async def test_what_comes_during_a_flush_goes_with_the_next() -> None:
    gate, begun, batches = asyncio.Event(), asyncio.Event(), []

    async def flush(items: Sequence[int]) -> list[int | Exception]:
        batches.append(list(items))
        begun.set()
        await gate.wait()
        return [item * 2 for item in items]

    batcher: Batcher[int, int] = Batcher(flush, limit=3)
    first = asyncio.create_task(batcher.put(0))
    await begun.wait()
    rest = [asyncio.create_task(batcher.put(i)) for i in range(1, 6)]
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(first, *rest) == [0, 2, 4, 6, 8, 10]
    assert batches == [[0], [1, 2, 3], [4, 5]]


async def test_one_items_error_is_its_own_and_a_failed_flush_everybodys() -> None:
    async def flush(items: Sequence[str]) -> list[str | Exception]:
        if "all" in items:
            raise RuntimeError("whole batch")
        return [ValueError(item) if item == "bad" else item for item in items]

    batcher: Batcher[str, str] = Batcher(flush)
    results = await asyncio.gather(*map(batcher.put, ["good", "bad"]), return_exceptions=True)
    assert results[0] == "good"
    assert isinstance(results[1], ValueError)
    with pytest.raises(RuntimeError):
        await batcher.put("all")
    assert await batcher.put("good") == "good"


async def test_a_caller_that_leaves_takes_nothing_back() -> None:
    gate, seen = asyncio.Event(), []

    async def flush(items: Sequence[int]) -> list[int | Exception]:
        await gate.wait()
        seen.extend(items)
        return list(items)

    batcher: Batcher[int, int] = Batcher(flush)
    tasks = [asyncio.create_task(batcher.put(i)) for i in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    gate.set()
    assert await asyncio.gather(*tasks, return_exceptions=True) != [0, 1, 2]
    assert seen == [0, 1, 2]


async def test_end_asks_until_a_task_has_really_ended() -> None:
    async def stubborn() -> None:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await end(task)
    assert task.cancelled()


async def test_several_items_are_handed_in_at_once_and_each_has_its_own_answer() -> None:
    sizes: list[int] = []

    async def flush(items: Sequence[int]) -> Sequence[int | Exception]:
        sizes.append(len(items))
        return [ValueError(str(item)) if item % 2 else item * 10 for item in items]

    batcher: Batcher[int, int] = Batcher(flush, limit=3)
    found = await batcher.put_all([0, 1, 2, 3])
    assert [str(answer) for answer in found] == ["0", "1", "20", "3"]
    assert sizes == [3, 1]
    assert await batcher.put_all([]) == []


async def test_small_batches_that_follow_each_other_wait_to_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.batch.PAUSE", 3600.0)
    batches: list[int] = []

    async def flush(items: Sequence[int]) -> list[int | Exception]:
        batches.append(len(items))
        return list(items)

    batcher: Batcher[int, int] = Batcher(flush)
    assert await batcher.put(0) == 0  # the first one goes at once
    assert await batcher.put_all(range(ENOUGH)) == list(range(ENOUGH))  # and so does a large one
    small = asyncio.create_task(batcher.put(1))
    await asyncio.wait([small], timeout=0.02)
    assert batches == [1, ENOUGH]
    await end(small)


async def test_callers_of_a_large_batch_go_on_few_in_a_round_of_the_event_loop() -> None:
    async def flush(items: Sequence[int]) -> list[int | Exception]:
        return list(items)

    async def caller(item: int) -> None:
        assert await batcher.put(item) == item
        went_on[rounds] += 1

    batcher: Batcher[int, int] = Batcher(flush)
    went_on, rounds = collections.Counter[int](), 0
    callers = [asyncio.create_task(caller(item)) for item in range(10 * AT_ONCE)]
    while not all(task.done() for task in callers):
        rounds += 1
        await asyncio.sleep(0)
    await asyncio.gather(*callers)
    assert max(went_on.values()) <= 2 * AT_ONCE  # from one count to the next it's the parts of two rounds
