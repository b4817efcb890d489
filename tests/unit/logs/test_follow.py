"""One job's log beside its execution."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from consumer.logs.commands import MAX_NOTICE, MAX_PROGRESS
from consumer.logs.follow import Desk, Follower
from consumer.model import LogPosition, Place
from consumer.settings import Logs
from enqueue.job import Job
from enqueue.job_parts import Variable
from support.consuming import until
from support.logs import MemorySink, claim
from support.story import Double, Story


class Late(Double):
    """Its log comes a few rounds of the loop after it was asked for."""

    async def logs(self, after: str = "") -> AsyncIterator[bytes]:
        for _ in range(20):
            await asyncio.sleep(0)
        yield b"all of it\n"


async def test_a_log_isnt_given_up_for_a_time_in_which_nothing_could_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process was stopped, or its machine was."""
    monkeypatch.setattr("consumer.logs.follow.PART", 0.05)
    follower = Follower(claim(), lambda claim, former: [], Logs())
    follower.start(Late(Story()), LogPosition())
    asyncio.get_running_loop().call_soon(time.sleep, 1.0)
    await follower.finish(0.5)
    position = follower.position()
    assert (position.lines, position.gaps) == (1, ())


async def test_a_log_that_still_comes_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    more = asyncio.Event()

    class Slow(Double):
        async def logs(self, after: str = "") -> AsyncIterator[bytes]:
            for _ in range(10):
                await more.wait()
                more.clear()
                yield b"some\n"

    async def wait(tasks: object, timeout: float) -> None:  # a second passes in which one more line comes
        more.set()
        for _ in range(20):
            await asyncio.sleep(0)

    monkeypatch.setattr("consumer.logs.follow.asyncio.wait", wait)
    follower = Follower(claim(), lambda claim, former: [], Logs())
    follower.start(Slow(Story()), LogPosition())
    await follower.finish(2)
    assert (follower.position().lines, follower.position().gaps) == (10, ())


async def test_a_log_that_doesnt_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(Double):
        async def logs(self, after: str = "") -> AsyncIterator[bytes]:
            yield b"some\n"
            await asyncio.Event().wait()

    follower = Follower(claim(), lambda claim, former: [], Logs())
    follower.start(Endless(Story()), LogPosition())
    await follower.finish(0.2)
    assert follower.cut
    assert [gap["reason"] for gap in follower.position().gaps] == ["not_read_to_its_end"]


async def test_what_is_told_with_the_outcome_is_masked_before_it_is_cut() -> None:
    class Telling(Double):
        async def logs(self, after: str = "") -> AsyncIterator[bytes]:
            yield b"::error file=hunter-22/a::" + b"x" * (MAX_NOTICE - 6) + b" hunter-22 hunter-22\n"
            yield b"::progress 3 " + b"y" * (MAX_PROGRESS - 6) + b" hunter-22\n"
            yield b"::set-outcome-var token=hunter-22\n::set-outcome-var url=own-password/hunter-22\n"

    job = Job(
        commands=["true"],
        variables=[Variable(name="A", value="hunter-22", sensitive=True)],
        unmasked_variables=["token"],
    )
    desk = Desk(2**20, ["own-password"])
    follower = Follower(replace(claim(), job=job), lambda claim, former: [], Logs(), desk)
    follower.start(Telling(Story()), LogPosition())
    await follower.finish(5)
    (notice,) = follower.notices
    assert notice.text == "***/a: " + "x" * (MAX_NOTICE - 6) + " *** *"
    assert follower.progress is not None
    assert follower.progress.message == "y" * (MAX_PROGRESS - 6) + " ***"
    assert follower.masked == {"token": "hunter-22", "url": "***/***"}


class Patient(Double):
    """Its log lasts, and is far more than may wait in memory."""

    log_lasts = True
    lines = [b"%07d " % number + b"x" * 64_000 for number in range(300)]
    given = 0

    async def logs(self, after: str = "") -> AsyncIterator[bytes]:
        for line in self.lines:
            self.given += 1
            yield line + b"\n"


class Slow(MemorySink):
    """Takes a block each few rounds of the loop."""

    async def write(self, block: bytes, place: Place | None = None) -> None:
        for _ in range(50):
            await asyncio.sleep(0)
        await super().write(block, place)


@pytest.mark.parametrize("desk", [Desk(64 * 1024 * 1024), Desk(1_000_000)])
async def test_a_log_that_lasts_is_read_no_faster_than_it_is_stored(
    monkeypatch: pytest.MonkeyPatch, desk: Desk
) -> None:
    monkeypatch.setattr("consumer.logs.spool.SHARE", 20_000)
    sink, job = Slow(), Patient(Story())
    follower = Follower(claim(), lambda claim, former: [sink], Logs(), desk)
    follower.start(job, LogPosition())
    await follower.finish(20)
    assert follower.position().gaps == ()
    assert sink.data.splitlines() == job.lines


async def test_while_nothing_is_stored_at_all_it_is_read_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a store that is away would leave the end of the log unread."""
    monkeypatch.setattr("consumer.logs.spool.SLOW", 0.0)
    sink, job = MemorySink(), Patient(Story())
    sink.gate.clear()
    follower = Follower(claim(), lambda claim, former: [sink], Logs(), Desk(1_000_000))
    follower.start(job, LogPosition())
    await until(lambda: job.given == len(job.lines))
    sink.gate.set()
    await follower.finish(20)
    (gap,) = follower.position().gaps
    assert gap["reason"] == "spool_full"
    assert sink.data.splitlines()[-1] == job.lines[-1]
