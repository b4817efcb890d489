"""What a job enqueues: only what the operator allows, each job once, told in both Records."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from consumer.follow_up import FollowUps
from consumer.logs.directives import Directives
from consumer.logs.follow import Follower
from consumer.model import LogPosition
from consumer.recording import record_claimed
from consumer.settings import Logs
from enqueue.errors import QueueUnavailable, RecordsUnavailable
from enqueue.job import Job
from enqueue.record import Record
from support.logs import claim
from support.story import Double, Story

ONE = json.dumps({"commands": ["true"]})
OTHER = json.dumps({"commands": ["true"], "queue": "later", "tags": ["x"]})


def read(text: str, queues: tuple[str, ...] = ("default", "later"), most: int = 3) -> tuple[FollowUps, str]:
    asked = FollowUps(queues, most, "default")
    return asked, Directives(ask=asked.read).feed(text.encode()).decode()


def test_they_are_read_and_taken_out_of_the_log() -> None:
    asked, left = read(f"a\n::enqueue {ONE}\n::enqueue {OTHER}\n::enqueue {ONE}\r\nb\n")
    assert left == "a\nb\n"
    assert [(one.queue, one.job.tags) for one in asked.asked] == [("default", ()), ("later", ("x",)), ("default", ())]
    assert len({one.mark for one in asked.asked}) == 3


@pytest.mark.parametrize(
    ("text", "queues", "told"),
    [
        (ONE, (), "the operator doesn't allow it (jobs.enqueue_to)"),
        (OTHER, ("default",), "queue: 'later' isn't allowed; default are (jobs.enqueue_to)"),
        ('{"queue": 3}', ("default",), "queue: must be the name of a queue"),
        ('{"comands": ["s3cret"]}', ("default",), "comands"),
        ('{"secret-text', ("default",), "the job is no JSON"),
    ],
)
def test_what_isnt_allowed_is_told_without_the_job(text: str, queues: tuple[str, ...], told: str) -> None:
    asked, left = read(f"::enqueue {text}\n", queues)
    assert left.startswith("::error::enqueue refused: ")
    assert told in left
    assert "s3cret" not in left
    assert "secret-text" not in left
    assert asked.asked == []


def test_they_are_bounded_and_other_lines_are_left() -> None:
    asked, left = read(f"::enqueue {ONE}\n" * 5 + "::enqueue\n::enqueued {}\n::enqueue x\n")
    assert len(asked.asked) == 3
    assert left.count("jobs.enqueue_max") == 2
    assert left.endswith("::enqueue\n::enqueued {}\n::enqueue x\n")


class Queue:
    """Knows keys, as a real one does."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.ids: dict[str, str] = {}
        self.jobs: list[Job] = []

    async def put(self, job: Job, queue: str, key: str) -> str:
        if self.errors:
            raise self.errors.pop(0)
        if key not in self.ids:
            self.ids[key] = f"child-{len(self.ids)}"
            self.jobs.append(job)
        return self.ids[key]


class Printing(Double):
    def __init__(self, text: str) -> None:
        super().__init__(Story())
        self.text = text

    async def logs(self, after: str = "") -> AsyncIterator[bytes]:
        yield self.text.encode()


async def run(queue: Queue, text: str, attempt: int = 1, history: Record | None = None) -> Follower:
    held = replace(claim(), attempt=attempt, history=history, job=Job(commands=["true"]))
    follower = Follower(held, lambda claim, former: [], Logs(), None, FollowUps(("default", "later"), 5, "default"))
    follower.start(Printing(text), LogPosition())
    await follower.finish(5)
    await follower.enqueue(queue.put, 0.0)
    return follower


async def test_the_same_log_read_again_makes_no_other_jobs() -> None:
    queue, text = Queue(), f"::enqueue {ONE}\n::enqueue {OTHER}\n::enqueue {ONE}\n"
    first = await run(queue, text)
    assert first.children == ("child-0", "child-1", "child-2")
    again = await run(queue, text, history=Record(id="x", attempt=1, children=first.children))
    assert again.children == first.children
    rotated = await run(queue, f"::enqueue {OTHER}\n", history=Record(id="x", attempt=1, children=first.children))
    assert rotated.children == first.children
    assert [job.parent for job in queue.jobs] == [claim().id] * 3
    retried = await run(queue, text, attempt=2, history=Record(id="x", attempt=1, children=first.children))
    assert retried.children == tuple(f"child-{n}" for n in range(6))


async def test_a_queue_that_is_away_is_waited_for_at_the_end_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.follow_up.PAUSE", 0.01)
    queue = Queue(QueueUnavailable("away"), QueueUnavailable("away"))
    follower = await run(queue, f"::enqueue {ONE}\n")
    assert follower.children == ()
    await follower.enqueue(queue.put, 10.0)
    assert follower.children == ("child-0",)
    assert follower.notices == ()


async def test_what_the_queue_refuses_is_told_and_costs_the_others_nothing() -> None:
    queue = Queue(RecordsUnavailable("no records"), ZeroDivisionError())
    follower = await run(queue, f"::enqueue {ONE}\n::enqueue {ONE}\n::enqueue {OTHER}\n")
    assert [notice.message for notice in follower.notices] == [
        "a job wasn't enqueued: no records", "a job wasn't enqueued: ZeroDivisionError"
    ]  # fmt: skip
    assert follower.children == ("child-0",)


def test_the_child_names_its_parent_and_a_new_attempt_knows_the_children() -> None:
    child = replace(claim(), job=Job(commands=["true"], parent="p-1"), history=Record(id="x", children=("c",)))
    record = record_claimed(child, "c-1", "process", "stream")
    assert (record.parent, record.children) == ("p-1", ("c",))
