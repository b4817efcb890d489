"""Audits by the consumers themselves: one at a time tells what it found, on a real Redis."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from consumer.audit_kinds import KINDS, Looked
from consumer.auditing import Auditor
from consumer.settings import Settings, load_settings
from consumer.tasks import end
from enqueue import QueueUnavailable, UsageError
from support.consuming import until


class Looks:
    """Stands in for the audit: finds what it is told to."""

    def __init__(self) -> None:
        self.found = Looked()
        self.error: Exception | None = None
        self.done = 0

    async def __call__(self, settings: Settings) -> Looked:
        self.done += 1
        if self.error is not None:
            raise self.error
        return self.found


def told(auditor: Auditor) -> dict[str, float]:
    return {measure.labels[0][1] if measure.labels else measure.name: measure.value for measure in auditor.measures()}


async def test_one_of_several_tells_and_another_one_goes_on_when_it_ends(
    redis_url: str, redis_client: redis.Redis
) -> None:
    settings = load_settings(queue_url=redis_url, queues="q", audit={"interval": 0.05})
    looks = Looks()
    looks.found.add("two_pods", "j", "the job j runs in a and b")
    auditors = [Auditor(settings, looks), Auditor(settings, looks)]
    tasks = [asyncio.create_task(auditor.run()) for auditor in auditors]
    try:
        with capture_logs() as events:
            teller = await until(lambda: next((one for one in auditors if told(one)), None), 10)
            before = looks.done
            await until(lambda: looks.done > before + 3, 10)
        assert [event["kinds"] for event in events if event["event"] == "audit_faults"] == [{"two_pods": 1}]  # once
        assert [bool(told(one)) for one in auditors].count(True) == 1
        found = told(teller)
        assert set(found) == {*KINDS, "audit_partial", "audit_time_seconds"}
        assert (found["two_pods"], found["queued_nowhere"], found["audit_partial"]) == (1, 0, False)
        [key] = redis_client.keys("longshore:audit:*")
        assert 250 < redis_client.ttl(key) <= 300  # whoever dies is followed
        here = auditors.index(teller)
        await end(tasks[here])
        await until(lambda: told(auditors[1 - here]), 10)
        assert not told(teller)
    finally:
        await end(*tasks)
    assert redis_client.keys("longshore:audit:*") == []


async def test_an_audit_that_fails_leaves_the_last_one_standing_and_is_told_once(redis_url: str) -> None:
    looks = Looks()
    auditor = Auditor(load_settings(queue_url=redis_url, audit={"interval": 0.05}), looks)
    task = asyncio.create_task(auditor.run())
    try:
        await until(lambda: told(auditor), 10)
        looks.error = QueueUnavailable("no Redis")
        await until(lambda: looks.done > 3, 10)
        with capture_logs() as events:
            looks.error = QueueUnavailable("no memory")
            before = looks.done
            await until(lambda: looks.done > before + 3, 10)
            last = told(auditor)["audit_time_seconds"]
            looks.error = None
            await until(lambda: told(auditor)["audit_time_seconds"] > last, 10)
        assert [event["error"] for event in events if event["event"] == "not_audited"] == ["no memory"]
    finally:
        await end(task)


async def test_whoever_can_find_other_things_audits_too(redis_url: str, redis_client: redis.Redis) -> None:
    same: list[dict[str, Any]] = [{"queues": "a,b"}, {"queues": "b=2,a=1"}]
    others: list[dict[str, Any]] = [{"queues": "a"}, {"queues": "a,b", "executor": "kubernetes"}]
    made = [Auditor(load_settings(queue_url=redis_url, **each)) for each in (*same, *others)]
    assert len({auditor._place() for auditor in made}) == 3


def test_without_records_there_is_nothing_to_audit() -> None:
    with pytest.raises(UsageError, match=r"^settings: audit\.interval: without Records"):
        load_settings(queue_url="tcp://localhost:1", no_records=True, audit={"interval": 60})
