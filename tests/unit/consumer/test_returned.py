from __future__ import annotations

import base64
import hashlib
import json
import zlib
from typing import Any

import pytest

from consumer import call_python
from consumer.model import Claim, Verdict
from consumer.outcome import masked, verdict_of
from consumer.returned import VARIABLE, ShippedEnd, returned
from enqueue.job import Job
from enqueue.record import Outcome, Status


def told(end: Any, status: Status = Status.SUCCEEDED, **fields: Any) -> Outcome:
    text = end if isinstance(end, str) else json.dumps(end)
    return Outcome(status=status, variables={"own": "1", VARIABLE: text}, **fields)


def shipped(end: Any) -> tuple[dict[str, Any], list[bytes]]:
    """What the outcome file and the output hold of a long end."""
    text = json.dumps(end).encode()
    packed = zlib.compress(text)
    lines = [b"::longshore-call " + base64.b64encode(packed[at : at + 30]) + b"\n" for at in range(0, len(packed), 30)]
    return {"size": len(text), "sha256": hashlib.sha256(text).hexdigest()}, lines


def test_a_value_is_the_result_and_no_variable() -> None:
    outcome, trace = returned(told({"value": {"a": [None]}}), b"")
    assert (outcome.status, outcome.result, outcome.variables, trace) == (
        Status.SUCCEEDED,
        {"a": [None]},
        {"own": "1"},
        "",
    )


def test_a_long_end_is_put_together_from_the_output() -> None:
    brief, lines = shipped({"value": ["x" * 500, list(range(200))]})
    end = ShippedEnd()
    log = end.feed(b"first\nno newline" + b"\n") + end.feed(
        b"".join([b"\n", *lines[:2], b"from a thread\n", *lines[2:]])
    )
    assert log + end.finish() == b"first\nno newline\nfrom a thread\n"
    assert end.holds
    outcome, _ = returned(told(brief), end.lines)
    assert outcome.result == ["x" * 500, list(range(200))]


@pytest.mark.parametrize("lost", [slice(0, 0), slice(1, None), slice(0, -1), slice(None, None, 2)])
def test_what_is_lost_of_a_long_end_is_told_never_guessed(lost: slice) -> None:
    brief, lines = shipped({"value": list(range(500))})
    end = ShippedEnd()
    end.feed(b"".join(lines[lost]))
    outcome, _ = returned(told(brief), end.lines)
    assert (outcome.status, outcome.reason, outcome.result) == (Status.FAILED, "result_lost", None)
    failed = told(brief, Status.FAILED, reason="exit_code", message="exited with code 1")
    assert returned(failed, end.lines)[0].reason == "exit_code"


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', '{"sha256": "x"}', "[" * 100_000])
def test_a_forged_end_is_no_value(text: str) -> None:
    outcome, _ = returned(told(text), b"!!!")
    assert (outcome.status, outcome.reason) == (Status.FAILED, "result_lost")


@pytest.mark.parametrize("reason", ["signal", "out_of_memory", "deadline", "evicted", "requested"])
def test_what_ended_the_process_from_outside_stays_the_reason(reason: str) -> None:
    for end in ({"value": 1}, {"exception": "ValueError", "message": "x", "traceback": "t"}):
        outcome, trace = returned(told(end, Status.FAILED, reason=reason), b"")
        assert (outcome.reason, outcome.result, trace) == (reason, None, "")
        assert VARIABLE not in outcome.variables


def test_an_exception_is_the_reason_with_its_traceback() -> None:
    end = {
        "exception": "app.Wrong",
        "message": "no such size",
        "traceback": "Traceback\n  x\napp.Wrong: no such size\n",
    }
    outcome, trace = returned(told(end, Status.FAILED, reason="exit_code", exit_code=1), b"")
    assert (outcome.reason, outcome.message, outcome.exit_code) == ("exception", "app.Wrong: no such size", 1)
    assert trace.endswith("app.Wrong: no such size\n")


def test_a_value_that_cant_be_kept_fails_for_good() -> None:
    outcome, _ = returned(told({"unfit": "the value is of type set, which isn't JSON"}), b"")
    assert outcome.reason == "result_unfit"
    claim = Claim("j", "q", 1, "t", Job(commands=["x"]), retries_left=5)
    assert verdict_of(outcome, claim, started=True, requeues=True) == (Verdict.BURY, False)


def test_no_end_at_all_is_no_success() -> None:
    outcome, _ = returned(Outcome(status=Status.SUCCEEDED, exit_code=0), b"")
    assert (outcome.status, outcome.reason) == (Status.FAILED, "exception")
    failed = Outcome(status=Status.FAILED, reason="exit_code", exit_code=127)
    assert returned(failed, b"")[0] == failed


def test_a_result_holds_no_secret() -> None:
    outcome = Outcome(status=Status.SUCCEEDED, result={"hunter2": ["x hunter2", {"deep": "hunter2"}, 1, None]})
    clean = masked(outcome, lambda text: text.replace("hunter2", "***"))
    assert clean.result == {"***": ["x ***", {"deep": "***"}, 1, None]}


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_a_value_that_is_nested_too_deeply_is_no_result_whoever_told_it() -> None:
    assert returned(told({"value": nested(100)}), b"")[0].result == nested(100)
    outcome, _ = returned(told({"value": nested(101)}), b"")
    assert (outcome.status, outcome.reason, outcome.result) == (Status.FAILED, "result_unfit", None)


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (nested(100), None),
        (nested(101), "nested too deeply"),
        ({"a": ["\ud800"]}, "the value.a[0] has half of a surrogate pair"),
        ({"\ud800": 1}, "the value has a key that has half of a surrogate pair"),
        ([10**4000], None),
        ([10**5000], "has more digits than JSON's readers take"),
        ((1, "é\U0001f600", True, None, 0.5), None),
    ],
)
def test_what_comes_back_from_json_as_it_is(value: Any, problem: str | None) -> None:
    found = call_python.told(value)
    assert (problem in found["unfit"]) if problem else found == {"value": value}


def test_an_exception_says_what_it_can() -> None:
    assert call_python.said(ValueError("bad \ud800")) == "bad \\ud800"
    assert call_python.said(Mute()) == ""
