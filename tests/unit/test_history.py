"""The checker of the invariants finds each kind of broken history, and nothing wrong with a good one."""

from __future__ import annotations

from typing import Any

import pytest

from support.history import Event, History, What, violations

END = {"status": "failed", "reason": "exit_code", "exit_code": 3, "variables": {}, "message": "m"}
LINES = [b"a\n", b"b\n", b"c\n"]


def record(at: float, **fields: Any) -> Event:
    return Event(at, What.RECORD, "j", value={"attempts": [], **fields})


def ended(at: float, **fields: Any) -> Event:
    return record(at, **{**END, "attempts": [{"attempt": 1, **END}], **fields})


def good() -> History:
    history = History(accepted={"j"}, written={"j": LINES}, stored={"j": b"".join(LINES)}, secrets=[b"hunter2"])
    history.kept = {"rq:job:j": b"nothing of interest"}
    history.slots, history.rate, history.fault_over, history.patience = 1, 3, 1.0, 5.0
    history.events = [
        Event(1, What.CLAIMED, "j", name="c1", value="one"),
        record(1.1, status="starting"),
        Event(1.2, What.CREATED, "j", 1, uid="u1"),
        *(Event(1.2 + n, What.REQUEST) for n in range(5)),
        Event(1.3, What.LOG, "j", 1),
        Event(1.4, What.LOG_END, "j", 1),
        ended(1.5),
        Event(1.6, What.TOLD, "j"),
        Event(1.6, What.RELEASED, "j", name="c1"),
        Event(1.7, What.DELETED, "j", 1, uid="u1"),
        Event(1.8, What.CLAIMED, "k", name="c2", value="one"),
    ]
    return history


def broken(name: str) -> History:
    history = good()
    events = history.events
    match name:
        case "I1 lost":
            history.events = [event for event in events if event.what not in (What.RECORD, What.TOLD)]
        case "I1 twice":
            events.append(ended(1.55, attempts=[], exit_code=4))
        case "I1 ended and queued":
            history.queued = {"j"}
        case "I2":
            events.append(Event(1.25, What.CREATED, "j", 1, uid="u2"))
        case "I3 of the job":
            events.append(record(1.9, status="running"))
        case "I3 of an attempt":
            events.append(record(1.45, status="queued", attempts=[{"attempt": 1, **END, "exit_code": 0}]))
        case "I4 outcome":
            events.append(Event(1.45, What.TOLD, "j"))
        case "I4 log":
            events.append(Event(1.65, What.LOG, "j", 1))
        case "I5":
            history.left = ["pods/ls-1"]
        case "I6 hole":
            history.stored["j"] = b"a\nc\n"
        case "I6 repeat":
            history.stored["j"] = b"a\nb\nb\nc\n"
        case "I6 order":
            history.stored["j"] = b"a\nc\nb\n"
        case "I6 foreign":
            history.stored["j"] = b"a\nb\nc\nx\n"
        case "I7":
            history.kept["rq:job:j"] = b"so hunter2 it is"
        case "I8":
            events.append(Event(1.15, What.CLAIMED, "l", name="c3", value="one"))
        case "I9":
            history.rate = 1
            events.append(Event(1.3, What.REQUEST))
        case "I10":
            history.patience = 0.1
    return history


def test_a_good_history_has_none() -> None:
    assert violations(good()) == []


def test_a_gap_that_is_told_is_none() -> None:
    history = broken("I6 hole")
    history.events.append(ended(1.55, log={"gaps": [{"reason": "cap", "after_line": 1}]}))
    assert violations(history) == []


def test_what_is_queued_again_may_be_settled_and_logged_again() -> None:
    history = good()
    again = record(1.0, status="queued", attempts=[{"attempt": 0, **END}])
    history.events += [again, Event(1.0, What.TOLD, "j")]
    history.events += [Event(1.02, What.CLAIMED, "j", name="c1", value="one")]
    assert violations(history) == []


BREAKS = """I1 lost, I1 twice, I1 ended and queued, I2, I3 of the job, I3 of an attempt, I4 outcome, I4 log, I5,
I6 hole, I6 repeat, I6 order, I6 foreign, I7, I8, I9, I10"""


@pytest.mark.parametrize("name", [name.strip() for name in BREAKS.split(",")])
def test_each_break_is_found(name: str) -> None:
    found = violations(broken(name))
    assert name.split()[0] in [text.partition(":")[0] for text in found], found
