from __future__ import annotations

import pytest

from consumer.errors import ExecutorFault, Unrunnable
from consumer.model import Claim, Exit, LogPosition, Stop, Verdict
from consumer.outcome import failure_text, masked, outcome_of, outcome_of_fault, outcome_of_nothing, verdict_of
from consumer.recording import log_of, record_claimed, record_ended, record_running
from enqueue.job import Job
from enqueue.record import HINTS, Attempt, Link, Outcome, Reason, Record, Status, Tally, Where


def claim(*, retries_left: int = 0, infrastructure_retries: int = 0, history: Record | None = None) -> Claim:
    job = Job(commands=["true"], infrastructure_retries=infrastructure_retries)
    return Claim("j", "q", 2, "t", job, retries_left=retries_left, history=history, queued_at=1.0, claimed_at=2.0)


def failed(*reasons: Reason) -> Record:
    attempts = [Attempt(attempt=i + 1, status=Status.FAILED, reason=reason) for i, reason in enumerate(reasons)]
    return Record(id="j", attempts=tuple(attempts))


@pytest.mark.parametrize(
    ("exit", "stopped", "status", "reason", "message"),
    [
        (Exit(code=0), None, "succeeded", None, None),
        (Exit(code=3), None, "failed", "exit_code", "exited with code 3"),
        (Exit(code=137, signal=9), None, "failed", "signal", "killed by SIGKILL"),
        (
            Exit(code=137, reason=Reason.OUT_OF_MEMORY, message="used 20Mi"),
            None,
            "failed",
            "out_of_memory",
            "used 20Mi",
        ),
        (Exit(code=143, signal=15), Stop.CANCEL, "cancelled", "requested", "cancelled while it ran"),
        (Exit(code=0), Stop.DEADLINE, "failed", "deadline", "ran longer than its timeout of 5 s"),
        (Exit(code=0), Stop.SHUTDOWN, "failed", "consumer_stopped", "the consumer was stopped and ended the job"),
        (Exit(code=None), None, "failed", "exit_code", "exited with code None"),
    ],
)
def test_an_exit_becomes_an_outcome(
    exit: Exit, stopped: Stop | None, status: str, reason: str | None, message: str | None
) -> None:
    outcome = outcome_of(exit, stopped, 5, {"a": "1"})
    assert (outcome.status.value, outcome.reason, outcome.message) == (status, reason, message)
    assert outcome.variables == {"a": "1"}
    assert (outcome.hint is None) == (reason is None)
    if reason and exit.signal != 9:
        assert outcome.hint == HINTS[Reason(reason)]


def test_a_kill_without_a_word_may_be_for_want_of_memory() -> None:
    hint = outcome_of(Exit(code=137, signal=9), None, None, {}).hint
    assert hint is not None
    assert "resources.limits.memory" in hint


def test_variables_of_the_exit_win_over_those_of_the_log() -> None:
    assert outcome_of(Exit(code=0, variables=(("a", "2"),)), None, 5, {"a": "1", "b": "1"}).variables == {
        "a": "2",
        "b": "1",
    }


def test_secrets_are_masked_in_message_and_variables() -> None:
    outcome = Outcome(status=Status.FAILED, message="no s3cret", variables={"a": "s3cret!"})
    hidden = masked(outcome, lambda text: text.replace("s3cret", "***"))
    assert (hidden.message, hidden.variables) == ("no ***", {"a": "***!"})


def test_half_a_surrogate_pair_can_be_stored_nowhere_and_is_replaced() -> None:
    outcome = Outcome(
        status=Status.FAILED, message="m\ud800", variables={"a": "v\udc00"}, result={"\ud83d": ["é\ud800"]}
    )
    sound = masked(outcome, lambda text: text)
    assert (sound.message, sound.variables, sound.result) == ("m\ufffd", {"a": "v\ufffd"}, {"\ufffd": ["é\ufffd"]})
    record = Record(id="1", status=Status.FAILED)
    assert "said \ufffd" in failure_text(record, sound, Verdict.BURY, (), ["said \ud800"])


JOB_FAULT = outcome_of(Exit(code=1), None, None, {})
NODE_LOST = outcome_of_fault(ExecutorFault("gone", Reason.NODE_LOST, started=True))
NOT_STARTED = outcome_of_fault(ExecutorFault("no API"))
WAITED = outcome_of_fault(ExecutorFault("no room", Reason.UNSCHEDULABLE))


@pytest.mark.parametrize(
    ("outcome", "claimed", "started", "requeues", "verdict"),
    [
        (outcome_of(Exit(code=0), None, None, {}), claim(), True, True, (Verdict.DONE, False)),
        (outcome_of_nothing(Stop.CANCEL, claim()), claim(retries_left=3), False, True, (Verdict.DONE, False)),
        (JOB_FAULT, claim(), True, True, (Verdict.BURY, False)),
        (JOB_FAULT, claim(retries_left=1), True, True, (Verdict.RETRY, False)),
        (outcome_of_fault(Unrunnable("x")), claim(retries_left=9), False, True, (Verdict.BURY, False)),
        (outcome_of_fault(Unrunnable("x", Reason.REFUSED)), claim(retries_left=9), False, True, (Verdict.BURY, False)),
        # what had begun isn't run again unless the job allows it, whatever retries it has for its own faults
        (NODE_LOST, claim(retries_left=9), True, True, (Verdict.BURY, False)),
        (NODE_LOST, claim(infrastructure_retries=1), True, True, (Verdict.RETRY, True)),
        (
            NODE_LOST,
            claim(infrastructure_retries=1, history=failed(Reason.NODE_LOST)),
            True,
            True,
            (Verdict.BURY, False),
        ),
        # what hadn't begun is tried three times
        (NOT_STARTED, claim(), False, True, (Verdict.RETRY, True)),
        (NOT_STARTED, claim(history=failed(Reason.EXECUTOR_ERROR)), False, True, (Verdict.RETRY, True)),
        (NOT_STARTED, claim(history=failed(*[Reason.EXECUTOR_ERROR] * 2)), False, True, (Verdict.BURY, False)),
        (NOT_STARTED, claim(), False, False, (Verdict.BURY, False)),
        # it has waited for as long as it was asked to
        (WAITED, claim(), False, True, (Verdict.BURY, False)),
    ],
)
def test_an_outcome_becomes_a_verdict(
    outcome: Outcome, claimed: Claim, started: bool, requeues: bool, verdict: tuple[Verdict, bool]
) -> None:
    assert verdict_of(outcome, claimed, started=started, requeues=requeues) == verdict


def test_a_record_grows_and_keeps_its_attempts() -> None:
    first = record_claimed(claim(), "c", "null", "log")
    running = record_running(first, Where(pod="p"), 3.0)
    assert (first.status, running.status) == (Status.STARTING, Status.RUNNING)
    assert running.where == Where(executor="null", consumer="c", pod="p")
    again = record_ended(running, JOB_FAULT, Verdict.RETRY, Where(), None, log_of("s", LogPosition()), 4.0)
    assert (again.status, again.reason, again.times.started) == (Status.QUEUED, None, None)
    assert [(a.attempt, a.reason) for a in again.attempts] == [(2, "exit_code")]
    last = record_claimed(
        Claim("j", "q", 3, "t2", Job(commands=["true"]), history=again, claimed_at=5.0), "d", "null", "log"
    )
    ended = record_ended(
        last, outcome_of(Exit(code=0), None, None, {"a": "1"}), Verdict.DONE, Where(), None, last.log, 6.0
    )
    assert (ended.status, ended.exit_code, ended.variables, len(ended.attempts)) == (Status.SUCCEEDED, 0, {"a": "1"}, 2)
    assert ended.times.queued == "1970-01-01T00:00:01.000000Z"
    assert Record.loads(ended.dumps()) == ended


def test_what_has_begun_stays_so_when_it_changes_hands() -> None:
    running = record_running(record_claimed(claim(), "dead", "kubernetes", "log"), Where(pod="p"), 3.0)
    taken = Claim("j", "q", 2, "t2", Job(commands=["true"]), history=running, claimed_at=9.0)
    record = record_claimed(taken, "living", "kubernetes", "log")
    assert (record.status, record.times.started, record.where.consumer) == (
        Status.RUNNING,
        running.times.started,
        "living",
    )


def test_a_failures_text_says_why_first_and_shows_the_end_of_the_log() -> None:
    record = record_ended(
        record_claimed(claim(), "c", "kubernetes", ""),
        JOB_FAULT,
        Verdict.BURY,
        Where(namespace="n", pod="p"),
        None,
        log_of("", LogPosition()),
        1.0,
    )
    lines = failure_text(record, JOB_FAULT, Verdict.BURY, ("one", "two")).splitlines()
    assert lines[0] == "exit_code: exited with code 1"
    assert lines[2] == "Attempt 2: pod n/p, executor kubernetes, consumer c"
    assert lines[-3:] == ["The log's last 2 lines:", "one", "two"]


def test_every_reason_has_a_hint() -> None:
    assert set(HINTS) == set(Reason)


def test_a_note_stands_in_the_message() -> None:
    done = outcome_of(Exit(code=0, note="n", variables=(("a", "2"),)), None, None, {"a": "1", "b": "1"})
    assert (done.succeeded, done.message, done.variables) == (True, "n", {"a": "2", "b": "1"})
    assert outcome_of(Exit(code=3, note="n"), None, None, {}).message == "exited with code 3; n"


@pytest.mark.parametrize(
    ("written", "read", "gaps", "word", "missing"),
    [
        (None, (5, 50), (), "no_gap_seen", None),
        ((5, 50), (5, 50), (), "complete", None),
        ((5, 50), (3, 30), (), "gap", (2, 20)),
        ((5, 50), (5, 49), (), "gap", (0, 1)),
        ((5, 50), (6, 51), (), "no_gap_seen", None),
        ((5, 50), (5, 50), ({"reason": "cap", "lines": 1, "bytes": 9, "after_line": 2},), "gap", None),
        ((5, 50), (3, 30), ({"reason": "output_dropped", "lines": 2, "bytes": 21, "after_line": 0},), "gap", None),
        ((5, 50), (3, 30), ({"reason": "rotated", "after_line": 1},), "gap", (2, 20)),
    ],
)
def test_the_word_on_a_log(
    written: tuple[int, int] | None, read: tuple[int, int], gaps: tuple[dict[str, object], ...], word: str,
    missing: tuple[int, int] | None,
) -> None:  # fmt: skip
    counted = Tally(lines=written[0], bytes=written[1]) if written else None
    position = LogPosition(
        entries=3, lines=7, bytes=70, gaps=gaps, digest=b"\1", read=Tally(lines=read[0], bytes=read[1])
    )
    log = log_of("s", position, written=counted)
    assert (log.complete, log.written, log.digest) == (word, counted, "01")
    unread = [gap for gap in log.gaps if gap["reason"] == "unread"]
    assert [(gap["lines"], gap["bytes"], gap["after_line"]) for gap in unread] == ([(*missing, 7)] if missing else [])


def test_a_log_that_no_store_has_whole_is_not_told_as_complete() -> None:
    counted = Tally(lines=7, bytes=70)
    position = LogPosition(lines=7, bytes=70, read=counted)
    good, bad = Link(sink="file", bytes=70), Link(sink="s3", bytes=30, problem="AccessDenied")
    assert log_of(None, position, [good, bad], counted).complete == "complete"
    assert log_of("s", LogPosition(entries=1, lines=7, bytes=70, read=counted), [bad], counted).complete == "complete"
    for kept, missing in ((30, {"bytes": 40}), (0, {"lines": 7, "bytes": 70})):
        log = log_of(None, position, [bad.model_copy(update={"bytes": kept})], counted)
        assert log.complete == "gap"
        assert [{key: gap[key] for key in ("lines", "bytes") if key in gap} for gap in log.gaps] == [missing]
        assert [(gap["reason"], gap["after_line"]) for gap in log.gaps] == [("not_stored", 0)]
