"""Events in Sentry: what they say, what they don't, and how many of them."""

from __future__ import annotations

import sys
from dataclasses import replace
from weakref import ref

import pytest
import structlog

from consumer.errors import SetupError
from consumer.logs.mask import Mask, current
from consumer.model import Settlement, Verdict
from consumer.sentry import Limit, Sentry
from consumer.settings_sentry import Sentry as Section
from consumer.telemetry import report_bugs, set_up_logging
from enqueue.job import Job
from enqueue.record import Outcome, Record, Status, Where
from support.logs import claim
from support.sentry import DSN, Kept


def sentry(per_minute: int = 5) -> tuple[Sentry, Kept]:
    kept = Kept()
    return Sentry(DSN, Section(per_minute=per_minute, environment="test"), "c-1", ["own-secret"], kept), kept


def failure(reason: str = "exit_code") -> Settlement:
    held = replace(claim(), job=Job(image="alpine:3", commands=["false"]))
    outcome = Outcome(status=Status.FAILED, reason=reason, message="exited with code 3", hint="look", exit_code=3)
    record = Record(id=held.id, where=Where(executor="kubernetes", pod="p-1"))
    return Settlement(held, Verdict.BURY, outcome, record)


def test_a_failed_job() -> None:
    reporter, kept = sentry()
    reporter.failed(failure(), ["the last line", "with own-secret"])
    (event,) = kept.events
    assert event["tags"] == {
        "queue": claim().queue, "type": "longshore.job", "executor": "kubernetes", "reason": "exit_code",
        "attempt": "1", "verdict": "bury", "image": "alpine:3",
    }  # fmt: skip
    assert event["fingerprint"] == ["longshore-job", "longshore.job", "exit_code"]
    assert event["logentry"]["message"] == "longshore.job: exit_code: exited with code 3"
    assert event["contexts"]["log"] == {"tail": "the last line\nwith ***"}
    assert event["contexts"]["job"]["hint"] == "look"
    assert event["environment"] == "test"
    assert event["server_name"] == "c-1"


def test_as_many_in_a_minute_and_then_how_many_were_held_back() -> None:
    now = 0.0
    limit = Limit(2, lambda: now)
    assert [limit.admit("a") for _ in range(5)] == [0, 0, None, None, None]
    assert limit.admit("b") == 0
    now = 61.0
    assert [limit.admit("a") for _ in range(3)] == [3, 0, None]
    for kind in range(1100):
        limit.admit(kind)
    assert len(limit._seen) <= 1000


def test_what_was_held_back_is_told_in_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    reporter, kept = sentry(per_minute=1)
    for _ in range(3):
        reporter.failed(failure(), [])
    reporter.failed(failure("deadline"), [])
    reporter._limit._seen = {
        key: (begin - 61, sent, held) for key, (begin, sent, held) in reporter._limit._seen.items()
    }
    reporter.failed(failure(), [])
    assert [event["tags"].get("suppressed") for event in kept.events] == [None, None, "2"]


@pytest.mark.usefixtures("own_log")
def test_a_bug_of_ours_comes_without_variables_or_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    reporter, kept = sentry()
    of_the_job = Mask(["job-secret"])
    token = current.set(ref(of_the_job))
    set_up_logging("info", "json")
    report_bugs(reporter.bug)
    log = structlog.get_logger()
    try:
        hidden = "held in a variable"
        try:
            raise RuntimeError(f"job-secret and own-secret, {len(hidden)}" + "x" * 200_000 + " job-secret")
        except RuntimeError as error:
            log.exception("helper_failed")
            log.error("internal_error", exc_info=error)
            log.warning("log source failed", exc_info=True)
        log.error("no exception")
    finally:
        report_bugs(None)
        current.reset(token)
    assert [event["tags"]["event"] for event in kept.events] == ["helper_failed", "internal_error"]
    assert kept.events[0]["exception"]["values"][0]["value"].startswith("*** and ***, 18")
    sent = b"".join(kept.sent)
    for secret in (b"job-secret", b"own-secret", b'"vars"'):
        assert secret not in sent


def test_nothing_that_goes_wrong_in_it_reaches_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    reporter, kept = sentry()
    monkeypatch.setattr(kept, "capture_envelope", lambda envelope: 1 / 0)
    reporter.failed(failure(), [])
    reporter.bug("x", ValueError("y"))
    reporter.close()


def test_what_cant_be_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SetupError, match=r"sentry\.dsn") as raised:
        Sentry("https://no-dsn-at-all", Section(), "c")
    assert "no-dsn" not in str(raised.value)
    monkeypatch.setitem(sys.modules, "sentry_sdk", None)
    with pytest.raises(SetupError, match=r"longshore\[sentry\]"):
        Sentry(DSN, Section(), "c")
