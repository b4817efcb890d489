"""A fetched job as a Claim, a Settlement as commands: pure, so without a server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from consumer.model import Claim, Settlement, Verdict
from consumer.queues import rq_words
from consumer.queues.faktory_words import claim_of, ending_of
from enqueue.job import Job
from enqueue.record import Attempt, Outcome, Record, Status
from enqueue.wire import faktory as wire
from enqueue.wire.call import Call
from enqueue.wire.faktory_fetched import Fetched


def fetched(retries: int | None = None, **native: Any) -> Fetched:
    job = Job(commands=("true",), retries=retries)
    return Fetched(wire.build_job(job, "q", jid="jid-12345") | native, 200)


def claimed(it: Fetched, **known: Any) -> Claim:
    return claim_of(it, token="t", now=1.0, max_bytes=1000, **known)


def failed(count: int, **more: Any) -> dict[str, Any]:
    return {"failure": {"retry_count": count, **more}}


EXPIRED = failed(0, errtype="ReservationExpired")


@pytest.mark.parametrize(
    ("it", "attempt", "left"),
    [
        (fetched(), 1, 0),
        (fetched(3), 1, 3),
        (fetched(3, **failed(0)), 2, 2),
        (fetched(3, **failed(2)), 4, 0),
        (fetched(3, **failed(7)), 9, 0),
        (fetched(2, retry=25), 1, 2),
        (fetched(2, retry=25, **failed(1)), 3, 0),
        (fetched(5, retry=-1), 1, 0),
        (fetched(5, retry=0), 1, 0),
        (fetched(5, retry=1), 1, 1),
        (fetched(None, retry=25), 1, 25),
        (fetched(None, retry=None), 1, 25),
        (fetched(1, **EXPIRED), 2, 1),
        (fetched(3, **failed(1, errtype="ReservationExpired")), 3, 2),
        (fetched(2, retry=1, **EXPIRED), 2, 1),
        (fetched(1, custom={"longshore_requeues": 1}, **EXPIRED), 3, 0),
        (fetched(3, custom={"longshore_requeues": 2}), 3, 3),
        (fetched(3, custom={"longshore_requeues": "x"}), 1, 3),
    ],
)
def test_attempts_and_what_is_left(it: Fetched, attempt: int, left: int) -> None:
    claim = claimed(it)
    assert (claim.attempt, claim.retries_left) == (attempt, left)


def test_only_the_jobs_own_failures_count_where_records_are_kept() -> None:
    attempts = [Attempt(attempt=n, status=Status.FAILED, reason=r) for n, r in enumerate(("node_lost", "signal"), 1)]
    record = Record(id="jid-12345", attempt=2, attempts=tuple(attempts))
    assert claimed(fetched(3, **failed(0)), attempt=3, record=record).retries_left == 2


def test_an_object_too_deep_is_a_problem_and_no_crash() -> None:
    nested: Any = []
    for _ in range(100_000):
        nested = [nested]
    it = Fetched({"jid": "a", "jobtype": "longshore.job", "args": [{"env": nested}]}, 5000)
    claim = claimed(it)
    assert claim.job is None
    assert claim.problem == "args: nested too deeply"


def verbs(claim: Claim, verdict: Verdict, *, late: bool = False, **changes: Any) -> list[str]:
    outcome = Outcome(status=Status.FAILED, message="m")
    settlement = Settlement(claim, verdict, outcome, Record(id=claim.id), **changes)
    ending = ending_of(settlement, late=late, now=1000.0)
    assert ending.needs_before == (verdict is Verdict.RETRY and ending.before is not None)
    sent = [*([ending.before] if ending.before else []), *ending.commands]
    return [
        f"MUTATE {json.loads(line[7:])['cmd']}" if line.startswith(b"MUTATE") else line.split()[0].decode()
        for line in sent
    ]


def test_a_payload_that_breaks_our_code_is_a_problem_of_its_job_alone() -> None:
    def load(call: Call) -> Job:
        raise OverflowError(f"too large: {call.args}")

    fetched = Fetched({"jid": "a", "jobtype": "t", "args": ["secret"]}, 50)
    assert claim_of(fetched, token="t", now=1, max_bytes=99, load=load).problem == SAID
    row = [b"a", b"q", b"t", b"1", b"50", b'["t", null, ["secret"], {}]', [None] * 18]
    assert rq_words.claim_of(row, 99, load).problem == SAID


SAID = "the payload can't be read (OverflowError in load)"


def test_commands() -> None:
    plain, replying = claimed(fetched(3)), claimed(fetched(3, custom={"reply_to": "answers"}))
    assert verbs(plain, Verdict.DONE) == ["ACK"]
    assert verbs(plain, Verdict.DONE, late=True) == ["ACK", "MUTATE discard", "MUTATE discard"]
    assert verbs(plain, Verdict.RETRY) == ["FAIL"]
    assert verbs(plain, Verdict.RETRY, infrastructure=True) == ["PUSH", "ACK"]
    assert verbs(plain, Verdict.BURY) == ["FAIL", "MUTATE kill"]
    assert verbs(replying, Verdict.DONE) == ["PUSH", "ACK"]
    assert verbs(replying, Verdict.RETRY) == ["FAIL"]
    assert verbs(replying, Verdict.BURY, late=True) == ["PUSH", "FAIL", "MUTATE kill"]
    assert verbs(claimed(fetched(None)), Verdict.BURY) == ["FAIL"]
    assert verbs(claimed(fetched(1, **failed(0))), Verdict.BURY) == ["FAIL"]
    assert verbs(claimed(fetched(1, **EXPIRED)), Verdict.RETRY) == ["PUSH", "ACK"]


def test_a_requeued_job_keeps_all_that_it_had() -> None:
    it = fetched(3, custom={"mine": 1, "longshore_requeues": 1}, enqueued_at="2026-01-01T00:00:00Z", **failed(0))
    claim = claimed(it)
    ending = ending_of(
        Settlement(claim, Verdict.RETRY, Outcome(status=Status.FAILED), Record(id=claim.id), infrastructure=True),
        late=False,
        now=1000.0,
    )
    assert ending.before is not None
    again = json.loads(ending.before[5:])
    assert again.pop("custom") == {"mine": 1, "longshore_requeues": 2}
    assert again.pop("at") == "1970-01-01T00:16:45.000000Z"
    assert again == {key: value for key, value in it.native.items() if key not in ("custom", "at", "enqueued_at")}
    assert claimed(Fetched(it.native | {"custom": {"longshore_requeues": 2}}, 1)).attempt == claim.attempt + 1


@pytest.mark.parametrize("reply_to", [7, "", None, [], "with space", "a\r\nFLUSH"])
def test_a_bad_reply_queue_never_stands_in_the_way(reply_to: Any) -> None:
    claim = claimed(fetched(3, custom={"reply_to": reply_to}))
    assert verbs(claim, Verdict.DONE) == ["ACK"]
