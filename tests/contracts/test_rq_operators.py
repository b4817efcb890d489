"""What operators see and do with RQ's own tools: `rq info`, suspend, commands to a worker, rq-dashboard's pages."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import pytest
import redis
import rq
from rq.command import send_kill_horse_command, send_shutdown_command, send_stop_job_command

from enqueue import Handle, Job, Outcome, Variable, connect
from support.consuming import consuming, until
from support.stock import dashboard


async def info(url: str) -> str:
    """What `rq info` prints."""
    command = [sys.executable, "-m", "rq.cli", "info", "--url", url]
    running = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={**os.environ, "NO_COLOR": "1"}
    )
    out, errors = await running.communicate()
    assert running.returncode == 0, errors.decode()
    return out.decode()


async def ended(handle: Handle) -> Outcome:
    """Waits beside the consumer, which shares our event loop."""
    return await asyncio.to_thread(handle.wait, 30)


def read(client: Any, path: str) -> Any:
    """A page's data; the page itself must come as well."""
    answer = client.get(path, follow_redirects=True)
    assert answer.status_code == 200, answer.data[:500]
    return json.loads(answer.data) if path.endswith(".json") else answer.text


async def test_rq_info_shows_a_live_worker_with_its_counts(redis_url: str, redis_client: redis.Redis) -> None:
    async with consuming(redis_url, queues="q,other", name="mine"):
        with connect(redis_url, queue="q") as producer:
            assert (await ended(producer.enqueue(Job(commands=["true"])))).succeeded
            assert not (await ended(producer.enqueue(Job(commands=["exit 3"])))).succeeded
            running = producer.enqueue(Job(commands=["sleep 600"]))
            await until(lambda: redis_client.hget("rq:worker:mine", "state") == b"busy")
            await until(lambda: redis_client.hget("rq:worker:mine", "current_job") == running.id.encode())
            (worker,) = rq.Worker.all(connection=redis_client)
            assert (worker.successful_job_count, worker.failed_job_count) == (1, 1)
            assert worker.total_working_time > 0
            assert worker.version.startswith("longshore ")
            assert [queue.name for queue in worker.queues] == ["q", "other"]
            seen = await info(redis_url)
            assert "mine" in seen
            assert "busy" in seen
            assert "1 workers" in seen
            before = redis_client.hget("rq:worker:mine", "last_heartbeat")
            await until(lambda: redis_client.hget("rq:worker:mine", "last_heartbeat") > before)
            redis_client.delete("rq:worker:mine")  # such as an outage of eight minutes
            await until(lambda: redis_client.hget("rq:worker:mine", "birth"))
            assert redis_client.ttl("rq:worker:mine") > 400
            running.cancel()
            await until(lambda: redis_client.hget("rq:worker:mine", "state") == b"idle")
            assert not redis_client.hexists("rq:worker:mine", "current_job")
            rq.suspension.suspend(redis_client)
            await until(lambda: redis_client.hget("rq:worker:mine", "state") == b"suspended")
            waiting = producer.enqueue(Job(commands=["true"]))
            rq.suspension.resume(redis_client)
            assert (await ended(waiting)).succeeded
    assert redis_client.hexists("rq:worker:mine", "death")
    assert redis_client.smembers("rq:workers") == set()


async def test_stop_job_ends_a_job_in_rqs_way(redis_url: str, redis_client: redis.Redis) -> None:
    stock = rq.Queue("q", connection=redis_client)
    async with consuming(redis_url, queues="q", name="mine"):
        job = stock.enqueue("longshore.job", {"commands": ["sleep 600"], "retries": 3}, job_timeout=700)
        await until(lambda: b'"running"' in (redis_client.hget(job.key, "longshore") or b""))
        send_kill_horse_command(redis_client, "mine")  # names no job: ignored
        send_stop_job_command(redis_client, job.id)
        await until(lambda: job.get_status(refresh=True) == "stopped")
        assert job.id in stock.failed_job_registry.get_job_ids()
        assert "Job stopped by user" in job.latest_result().exc_string
        with connect(redis_url) as producer:
            assert (await ended(producer.handle(job.id))).status == "cancelled"


async def test_shutdown_stops_the_consumer(redis_url: str, redis_client: redis.Redis) -> None:
    async with consuming(redis_url, queues="q", name="mine") as consumer:
        await until(lambda: redis_client.pubsub_numsub("rq:pubsub:mine")[0][1] == 1)
        send_shutdown_command(redis_client, "mine")
        await asyncio.wait_for(asyncio.shield(consumer), 30)
    assert redis_client.hexists("rq:worker:mine", "shutdown_requested_date")


async def test_rq_dashboard_shows_what_a_person_understands(redis_url: str, redis_client: redis.Redis) -> None:
    pytest.importorskip("rq_dashboard")
    secret = "hunter2-not-a-real-one"
    hidden = (Variable(name="TOKEN", value=secret, sensitive=True),)
    async with consuming(redis_url, queues="q", name="mine"):
        with connect(redis_url, queue="q") as producer:

            def job(*commands: str) -> Job:
                return Job(commands=[*commands], variables=hidden, env={"REGION": "eu"})

            good = producer.enqueue(job("echo ::set-outcome-var answer=42"))
            bad = producer.enqueue(job("echo no such table", "echo $TOKEN", "exit 3"))
            await ended(good)
            await ended(bad)
            running = producer.enqueue(job("sleep 600"))
            await until(lambda: redis_client.hget("rq:worker:mine", "current_job") == running.id.encode())
            await until(lambda: b'"running"' in (redis_client.hget(f"rq:job:{running.id}", "longshore") or b""))
            with dashboard(redis_url) as client:
                for page in ("/0/view/queues", "/0/view/workers", "/0/view/jobs", f"/0/view/job/{good.id}"):
                    assert "RQ" in read(client, page)
                (worker,) = read(client, "/0/data/workers.json")["workers"]
                assert (worker["name"], worker["state"], worker["queues"]) == ("mine", "busy", ["q"])
                assert (worker["successful_job_count"], worker["failed_job_count"]) == (1, 1)
                assert worker["current_job"]["job_id"] == running.id
                shown = {handle.id: read(client, f"/0/data/job/{handle.id}.json") for handle in (good, bad, running)}
                assert shown[good.id]["status"] == "finished"
                assert shown[good.id]["result"]["variables"] == {"answer": "42"}
                assert shown[bad.id]["status"] == "failed"
                assert shown[bad.id]["exc_info"].startswith("exit_code: exited with code 3\nHint: ")
                assert "no such table" in shown[bad.id]["exc_info"]
                assert shown[running.id]["status"] == "started"
                assert json.loads(shown[running.id]["metadata"])["longshore"]["status"] == "running"
                running.cancel()
                await until(lambda: redis_client.hget(f"rq:job:{running.id}", "status") == b"canceled")
                shown["cancelled"] = read(client, f"/0/data/job/{running.id}.json")
                assert shown["cancelled"]["status"] == "canceled"
                meta = json.loads(shown["cancelled"]["metadata"])["longshore"]
                assert (meta["status"], meta["reason"]) == ("cancelled", "requested")
                lists = [
                    read(client, f"/0/data/jobs/q/{registry}/10/asc/1.json")
                    for registry in ("queued", "started", "finished", "failed", "canceled")
                ]
                assert [len(found["jobs"]) for found in lists] == [0, 0, 1, 1, 1]
                assert secret not in json.dumps([shown, lists])
                assert all(entry["description"] for entry in shown.values())
