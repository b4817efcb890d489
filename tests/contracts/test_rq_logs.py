"""Logs of RQ's jobs in their store: entries in order, positions to go on from, and holes that readers see."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import redis
import rq

from consumer.errors import ClaimLost
from consumer.model import LogPosition, Place, Verdict
from consumer.queues.rq import RqQueue
from consumer.settings import Retention
from enqueue import connect
from enqueue.record import Outcome
from support.rq_jobs import FAILURE, JOB, SUCCESS, ended


@pytest.fixture
async def queue(redis_url: str) -> AsyncIterator[RqQueue]:
    opened = RqQueue(redis_url, ("q",), consumer="c1", max_bytes=100_000, retention=Retention(), patience=0.1)
    await opened.open()
    yield opened
    await opened.close()


async def test_logs_rise_by_attempt_and_repeats_are_no_repeats(queue: RqQueue, redis_client: redis.Redis) -> None:
    rq.Queue("q", connection=redis_client).enqueue("longshore.job", JOB, job_id="j1", retry=rq.Retry(max=1))
    (claim,) = await queue.claim(5)
    gap = {"reason": "rotated", "after_line": 1}
    first = LogPosition(1, lines=2, bytes=4, gaps=(gap,), place=Place("main 7 of x", 2))
    await queue.records.append(claim, b"a\nb\n", first)
    await queue.records.append(claim, b"a\nb\n", first)
    assert await queue.records.resume(claim) == first
    second = LogPosition(2, lines=3, bytes=5, open=True)
    await queue.records.append(claim, b"c", second)
    assert await queue.records.resume(claim) == second
    await queue.records.end(claim, replace(second, entries=3))
    assert await queue.records.resume(claim) == replace(second, entries=3)
    await queue.settle([ended(claim, FAILURE, Verdict.RETRY)])
    (claim,) = await queue.claim(5)
    assert await queue.records.resume(claim) == LogPosition()
    await queue.records.append(claim, b"c\n", LogPosition(1, 1, 2))
    ids = [entry.decode() for entry, _ in redis_client.xrange("longshore:log:j1")]
    assert ids == ["1-1", "1-2", "1-3", "2-1"]
    assert redis_client.ttl("longshore:log:j1") > 0


@pytest.mark.parametrize(
    ("outcome", "verdict"), [(SUCCESS, Verdict.DONE), (FAILURE, Verdict.BURY), (FAILURE, Verdict.RETRY)]
)
async def test_a_log_that_arrives_after_the_end_is_not_stored(
    queue: RqQueue, redis_client: redis.Redis, outcome: Outcome, verdict: Verdict
) -> None:
    """It was given up, and told as a gap."""
    rq.Queue("q", connection=redis_client).enqueue("longshore.job", JOB, job_id="j1", retry=rq.Retry(max=1))
    (claim,) = await queue.claim(5)
    await queue.records.append(claim, b"one\n", LogPosition(1, lines=1, bytes=4))
    await queue.settle([ended(claim, outcome, verdict)])
    with pytest.raises(ClaimLost):
        await queue.records.append(claim, b"two\n", LogPosition(2, lines=2, bytes=8))
    assert redis_client.xlen("longshore:log:j1") == 1


async def test_a_hole_in_the_log_is_seen_by_its_readers(
    queue: RqQueue, redis_url: str, redis_client: redis.Redis
) -> None:
    rq.Queue("q", connection=redis_client).enqueue("longshore.job", JOB, job_id="j1")
    (claim,) = await queue.claim(5)
    await queue.records.append(claim, b"a\n", LogPosition(1, 1, 2))
    full = {"reason": "spool_full", "lines": 7, "bytes": 70, "after_line": 1}
    await queue.records.append(claim, b"z\n", LogPosition(2, 9, 74, gaps=(full,)))
    rotated = {"reason": "rotated", "after_line": 9}
    await queue.records.append(claim, b"y", LogPosition(3, 10, 75, gaps=(full, rotated), open=True))
    last = {"reason": "pod_deleted", "after_line": 10}
    end = LogPosition(4, 10, 75, gaps=(full, rotated, last), open=True)
    await queue.records.end(claim, end)
    with connect(redis_url) as producer:
        assert b"".join(producer.handle("j1").logs()) == (
            b"a\n[longshore: 7 lines dropped here]\nz\n"
            b"[longshore: a part of the log may be missing here: "
            b"the node has rotated it away before it could be read]\ny\n"
            b"[longshore: a part of the log may be missing here: the pod was deleted before it could be read]\n"
        )
    assert await queue.records.resume(claim) == end


async def test_a_log_of_which_nobody_reads_the_rest_ends_where_it_is_stored(
    queue: RqQueue, redis_url: str, redis_client: redis.Redis
) -> None:
    rq.Queue("q", connection=redis_client).enqueue("longshore.job", JOB, job_id="j1")
    (claim,) = await queue.claim(5)
    assert (await queue.records.end_unread(claim)).entries == 0
    assert not redis_client.exists("longshore:log:j1")
    await queue.records.append(claim, b"a\n", LogPosition(1, 1, 2))
    stands = await queue.records.end_unread(claim)
    assert (stands.entries, stands.gaps) == (1, ({"reason": "not_read_to_its_end", "after_line": 1},))
    again = await queue.records.end_unread(claim)
    assert (again.entries, again.gaps) == (2, stands.gaps)
    assert redis_client.xlen("longshore:log:j1") == 2
    with connect(redis_url) as producer:
        said = b"[longshore: a part of the log may be missing here: what follows wasn't read in time]\n"
        assert b"".join(producer.handle("j1").logs()) == b"a\n" + said


async def test_a_log_that_was_read_to_its_end_is_left_as_it_is(queue: RqQueue, redis_client: redis.Redis) -> None:
    rq.Queue("q", connection=redis_client).enqueue("longshore.job", JOB, job_id="j1")
    (claim,) = await queue.claim(5)
    await queue.records.append(claim, b"a\n", LogPosition(1, 1, 2))
    await queue.records.end(claim, LogPosition(2, 1, 2))
    stands = await queue.records.end_unread(claim)
    assert (stands.entries, stands.gaps) == (2, ())
    assert redis_client.xlen("longshore:log:j1") == 2
