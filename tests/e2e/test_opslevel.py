"""OpsLevel's jobs through a whole consumer, their replies as its users' handlers fetch them."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from enqueue.wire import faktory as wire
from support.consuming import consuming, until
from support.faktory_servers import JOB, SERVERS, Server, serving


@pytest.fixture(params=SERVERS)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    async for one in serving(request.param):
        yield one


async def fetched(server: Server, queue: str) -> dict[str, Any]:
    job = await until(lambda: server.fetch(queue))
    assert isinstance(job, dict)
    return job


async def test_a_failed_job_is_answered_and_acked(server: Server, redis_url: str) -> None:
    name, app = server.name(), server.name()
    commands = ["echo hello $RUNNER_JOB_ID", "echo ::set-outcome-var answer=42", "echo $TOKEN", "exit 3"]
    payload = {"id": "x", "image": "alpine", "commands": commands}
    payload |= {"variables": [{"key": "TOKEN", "value": "s3cret-word", "sensitive": True}]}
    custom = {"opslevel-runner-job-id": 225, "kept": "as it is"}
    job = {"jid": wire.new_jid(), "queue": name, "jobtype": "legacy", "args": [payload], "custom": custom, "retry": 25}
    await server.push(job)
    faktory = {"opslevel_queue": app, "log_interval": 0.05}
    async with consuming(server.url, queues=(name,), records_url=redis_url, faktory=faktory):
        lines: list[str] = []
        while True:
            reply = await fetched(server, app)
            if reply["jobtype"] != "Runners::Faktory::AppendJobLog":
                break
            assert (reply["args"][0]["runnerId"], reply["args"][0]["runnerJobId"]) == ("faktory", "225")
            lines += [base64.b64decode(line).decode() for line in reply["args"][0]["logChunk"]]
        assert reply["jobtype"] == "Runners::Faktory::ReportJobOutcome"
        variables = [{"key": "answer", "value": "42"}]
        said = {"runnerId": "faktory", "runnerJobId": "225", "outcome": "failed", "outcomeVariables": variables}
        assert reply["args"] == [said]
        assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \[0\] ", line) for line in lines)
        assert [line.split(" [0] ", 1)[1] for line in lines] == ["hello 225", "***"]
    assert await server.entry("retries", job["jid"]) is None
    assert await server.entry("dead", job["jid"]) is None
    assert await server.size(name) == 0


async def test_the_log_goes_to_whoever_asks_for_it(server: Server, redis_url: str) -> None:
    name, app = server.name(), server.name()
    job = wire.build_job(JOB.model_copy(update={"commands": ("echo one; echo two",), "reply_to": app}), name)
    job["custom"]["reply_logs"] = True
    await server.push(job)
    async with consuming(server.url, queues=(name,), records_url=redis_url, faktory={"log_interval": 0.05}):
        text = ""
        while True:
            reply = await fetched(server, app)
            assert reply["custom"] == {"reply_for": job["jid"]}
            if reply["jobtype"] != "longshore.log":
                break
            (said,) = reply["args"]
            assert (said["id"], said["attempt"], said["after_line"]) == (job["jid"], 1, text.count("\n"))
            text += said["text"]
    assert reply["jobtype"] == "longshore.outcome"
    assert reply["args"][0]["status"] == "succeeded"
    assert text == "one\ntwo\n"
