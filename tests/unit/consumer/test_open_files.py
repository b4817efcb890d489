"""Open files: this process' soft limit is raised as far as its jobs need it and the hard one lets it."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from resource import RLIM_INFINITY

import pytest
from structlog.testing import capture_logs

from consumer import app
from consumer.settings import load_settings

Limits = tuple[int, int]


class System:
    """What the kernel says and is told."""

    def __init__(self, soft: int, hard: int, monkeypatch: pytest.MonkeyPatch, refuses: Exception | None = None) -> None:
        self.limits, self.set, self._refuses = (soft, hard), list[Limits](), refuses
        monkeypatch.setattr(resource, "getrlimit", lambda what: self.limits)
        monkeypatch.setattr(resource, "setrlimit", self._take)

    def _take(self, what: int, limits: Limits) -> None:
        assert what == resource.RLIMIT_NOFILE
        if self._refuses is not None:
            raise self._refuses
        self.set.append(limits)


@pytest.mark.row(71)
@pytest.mark.parametrize(
    ("soft", "hard", "set_to", "told"),
    [
        (1024, 4096, [(2000, 4096)], False),
        (1024, RLIM_INFINITY, [(2000, RLIM_INFINITY)], False),
        (1024, 1500, [(1500, 1500)], True),
        (2000, 4096, [], False),
        (RLIM_INFINITY, RLIM_INFINITY, [], False),
    ],
)
def test_the_limit_is_raised_and_never_lowered(
    soft: int, hard: int, set_to: list[Limits], told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = System(soft, hard, monkeypatch)
    with capture_logs() as said:
        app.allow_open_files(2000)
    assert system.set == set_to
    assert [entry["event"] for entry in said] == ["few_open_files"] * told
    assert [(entry["allowed"], entry["wanted"]) for entry in said] == [(hard, 2000)] * told


@pytest.mark.parametrize("error", [ValueError("not allowed"), PermissionError("not allowed")])
def test_a_system_that_refuses_keeps_nobody_from_starting(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    System(1024, 4096, monkeypatch, error)
    app.allow_open_files(2000)


@pytest.mark.row(71)
async def test_a_consumer_asks_for_as_many_as_its_slots_need(monkeypatch: pytest.MonkeyPatch) -> None:
    class Asked(Exception):
        pass

    def asked(wanted: int) -> None:
        wishes.append(wanted)
        raise Asked

    wishes: list[int] = []
    monkeypatch.setattr(app, "allow_open_files", asked)
    settings = load_settings(queue_url="redis://127.0.0.1:1/0", executor="process", name="c", concurrency=1000)
    with contextlib.suppress(Asked):
        async with asyncio.timeout(5):
            await app.run_consumer(settings, asyncio.Event())
    [wanted] = wishes
    assert wanted >= 8 * 1000
