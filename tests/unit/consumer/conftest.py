"""`story` and `run`: one job on doubles."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from consumer.errors import ClaimLost
from consumer.logs.follow import Follower
from consumer.model import Settlement
from consumer.run import Tools, run_job
from consumer.settings import load_settings
from consumer.switch import Switch
from enqueue.record import Outcome
from support.story import CLAIM, Double, Run, Store, Story


@pytest.fixture
def story() -> Story:
    return Story()


@pytest.fixture
def run(story: Story, monkeypatch: pytest.MonkeyPatch) -> Run:
    async def no_pause(seconds: float) -> None: ...

    async def settle(settlement: Settlement) -> None:
        if story.refuse_settle:
            raise ClaimLost("taken")
        story.steps.append("settle")
        story.settled.append(settlement)

    def begin(executor: Double, switch: Switch | None = None, **change: Any) -> asyncio.Task[Outcome | None]:
        settings = load_settings(name="me")
        tools = Tools(
            executor=executor,
            records=Store(story),
            settings=settings,
            follower=lambda claim: Follower(claim, lambda claim, former: [], settings.logs),
            settle=settle,
            requeues=True,
        )
        return asyncio.create_task(run_job(replace(CLAIM, **change), tools, switch or Switch()))

    monkeypatch.setattr("consumer.run.asyncio.sleep", no_pause)
    return begin
