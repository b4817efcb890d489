from __future__ import annotations

import asyncio

import pytest

from consumer.model import Stop
from consumer.switch import Switch


async def test_a_stop_interrupts_what_is_awaited_and_only_that() -> None:
    switch = Switch()
    asyncio.get_running_loop().call_soon(switch.set, Stop.CANCEL)
    with switch.interrupting():
        await asyncio.Event().wait()
        raise AssertionError
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_what_was_said_before_interrupts_too_but_not_what_needs_no_wait() -> None:
    switch = Switch()
    switch.set(Stop.CANCEL)
    with switch.interrupting():
        await asyncio.Event().wait()
        raise AssertionError
    done = False
    with switch.interrupting():
        done = True
    assert done
    await asyncio.sleep(0)  # no cancellation is left behind


async def test_whoever_cancels_the_task_itself_is_obeyed() -> None:
    switch = Switch()

    async def work() -> None:
        with switch.interrupting():
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    switch.set(Stop.CANCEL)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_swallowed_interruption_is_said_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.switch.INSIST_SECONDS", 0.0)
    switch, swallowed = Switch(), 0
    asyncio.get_running_loop().call_soon(switch.set, Stop.SHUTDOWN)
    with switch.interrupting():
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed == 3:
                    raise
    assert swallowed == 3
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
