"""The steps of waiting and following, without any server."""

from __future__ import annotations

from typing import Any

import pytest

from enqueue import QueueUnavailable, Status, protocol
from enqueue.backends.rq import RqBackend
from enqueue.protocol import Command, Emit, Heard, Listen, Pause
from enqueue.record import Record

AWAY = QueueUnavailable("Redis at localhost:6379: Connection refused")
ENDED = Record(id="j", status=Status.SUCCEEDED, exit_code=0).dumps()


def drive(steps: Any, answers: list[Any]) -> list[Any]:
    """Send the answers, raise those that are errors; the steps, and at last the result."""
    seen = []
    try:
        step = next(steps)
        while True:
            seen.append(step)
            heard = isinstance(step, Command) and step.args[0] == "PUBLISH"
            answer = None if heard or isinstance(step, (Listen, Pause, Emit)) else answers.pop(0)
            step = steps.throw(answer) if isinstance(answer, Exception) else steps.send(answer)
    except StopIteration as end:
        return [*seen, end.value]


def kinds(seen: list[Any]) -> list[type]:
    return [type(step) for step in seen]


def test_a_wait_outlives_a_restart_of_the_server() -> None:
    seen = drive(
        protocol.wait(RqBackend("q"), "j", 60),
        [[b"started", None, b"q", b"", b"", None], AWAY, AWAY, AWAY, [b"finished", ENDED, b"q", b"", b"", None]],
    )
    assert kinds(seen[:-1]) == [Listen, Command, Heard, Pause, Command, Pause, Command, Pause, Command]
    assert seen[-1].succeeded


def test_a_wait_ends_with_its_timeout_and_tells_that_the_server_is_away() -> None:
    with pytest.raises(QueueUnavailable):
        drive(protocol.wait(RqBackend("q"), "j", 0), [AWAY])


def test_patience_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "PATIENCE", 0.0)
    with pytest.raises(QueueUnavailable):
        drive(protocol.follow(RqBackend("q"), "j", until_end=True), [AWAY])


def test_a_followed_log_goes_on_where_it_was_when_the_server_is_back() -> None:
    entry = [(b"longshore:log:j", [(b"1-1", {b"d": b"one\n", b"l": b"1"})])]
    seen = drive(
        protocol.follow(RqBackend("q"), "j", until_end=True),
        [entry, AWAY, None, AWAY, [b"finished", ENDED, b"q", b"", b"", None], None],
    )
    reads = [step.args for step in seen if isinstance(step, Command) and step.args[0] == "XREAD"]
    assert [args[-1] for args in reads] == ["0-0", b"1-1", b"1-1", b"1-1"]
    assert [step.data for step in seen if isinstance(step, Emit)] == [b"one\n"]


def test_whoever_follows_a_log_says_so_and_goes_on_saying_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "ANNOUNCE", 0.0)
    running, ended = [b"started", None, b"q", b"", b"", None], [b"finished", ENDED, b"q", b"", b"", None]
    entry = [(b"longshore:log:j", [(b"1-1", {b"d": b"one\n", b"l": b"1"})])]
    seen = drive(protocol.follow(RqBackend("q"), "j", until_end=True), [entry, None, running, None, ended, None])
    said = [step.args for step in seen if isinstance(step, Command) and step.args[0] == "PUBLISH"]
    assert said == [("PUBLISH", "longshore:watch", "j")] * 3
    read = drive(protocol.follow(RqBackend("q"), "j", until_end=False), [entry, None])
    assert "PUBLISH" not in str(read)


def test_a_log_that_is_only_read_waits_for_nobody() -> None:
    with pytest.raises(QueueUnavailable):
        drive(protocol.follow(RqBackend("q"), "j", until_end=False), [AWAY])
