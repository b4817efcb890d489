"""A container that ends while the engine starts it, so that Podman says no to a start that has worked."""

from __future__ import annotations

from typing import Any

import pytest

from consumer.errors import ExecutorFault
from consumer.executors.docker import execution as module
from consumer.executors.docker.container import build
from consumer.executors.docker.engine import EngineError
from consumer.executors.docker.execution import ContainerExecution
from consumer.executors.docker.verdict import state_of
from consumer.model import Plan
from consumer.settings import Docker
from enqueue.job import Job
from enqueue.record import Where

MISSED = EngineError(500, "read /proc/14526/cgroup: no such process")
CREATED, EXITED = {"Id": "x", "State": {"Status": "created"}}, {"Id": "x", "State": {"Status": "exited", "ExitCode": 0}}


@pytest.fixture
def execution(monkeypatch: pytest.MonkeyPatch) -> ContainerExecution:
    monkeypatch.setattr(module, "LOOKS_AGAIN", (0.0, 0.0, 0.0))
    job = Job.load({"image": "busybox", "commands": ["true"]})
    plan = Plan("id", "queue", 1, "me", job, timeout=60, start_timeout=30, grace=10)
    made = build(plan, Docker())
    return ContainerExecution(None, plan, Where, made, fetch=None, ours=True, forget=lambda: None)  # type: ignore[arg-type]


def shows(execution: ContainerExecution, *answers: dict[str, Any]) -> Any:
    left = list(answers)

    async def look(step: Any) -> None:
        execution._states[step.name] = state_of(left.pop(0))

    execution._look = look  # type: ignore[method-assign]
    return execution._containers.main


async def test_it_is_looked_at_until_the_engine_knows(execution: ContainerExecution) -> None:
    assert await execution._begun_after_all(shows(execution, CREATED, CREATED, EXITED), MISSED)


async def test_one_that_nobody_saw_has_begun(execution: ContainerExecution) -> None:
    with pytest.raises(ExecutorFault, match=r"began and wasn't seen.*no such process") as caught:
        await execution._begun_after_all(shows(execution, CREATED, CREATED, CREATED), MISSED)
    assert caught.value.started


async def test_a_start_without_any_answer_may_not_have_worked(execution: ContainerExecution) -> None:
    silent = EngineError(0, "no answer")
    silent.down = True
    with pytest.raises(EngineError, match="no answer"):
        await execution._begun_after_all(shows(execution, CREATED), silent)
