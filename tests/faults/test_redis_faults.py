"""Redis killed, set back, cut off and slow, under a whole consumer: each job runs once and has one outcome."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
import redis.asyncio
import structlog

from consumer.errors import SetupError
from consumer.model import Claim, LogPosition, Settlement, Signal, Verdict
from consumer.queues import open_queue
from consumer.queues.standing import Standings
from consumer.recording import log_of, record_claimed, record_ended
from consumer.settings import Settings
from enqueue import Job, Outcome, Status, aio
from enqueue.errors import QueueUnavailable
from enqueue.record import Where
from support.consuming import consuming, until
from support.fake_faktory import FakeFaktory
from support.redis_server import RedisServer
from support.tcp_proxy import TcpProxy


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    # with `everysec` a write may wait for a slow fsync for 2 s, and is lost with the process, although acknowledged
    with RedisServer("--appendonly", "yes", "--appendfsync", "no") as server:
        yield server


def settlement(claim: Claim) -> Settlement:
    outcome = Outcome(status=Status.SUCCEEDED, exit_code=0)
    record = record_claimed(claim, "c", "null", "")
    record = record_ended(record, outcome, Verdict.DONE, Where(), None, log_of("", LogPosition()), time.time())
    return Settlement(claim, Verdict.DONE, outcome, record)


def through(url: str, proxy: TcpProxy) -> str:
    """The same database as in `url`, by way of the proxy."""
    return f"redis://{urlsplit(proxy.url).netloc}/{urlsplit(url).query.removeprefix('db=')}"


def told_once(folder: Path, ids: list[str]) -> None:
    assert sorted((folder / "runs").read_text().split()) == sorted(ids)


def writing(folder: Path, name: str) -> Job:
    return Job(commands=[f"echo {name} >> {folder}/runs", "echo done"])


@pytest.mark.row(45)
@pytest.mark.parametrize("kind", ["rq", "faktory"])
async def test_a_server_that_is_killed_again_and_again_costs_no_job(
    own_server: RedisServer, tmp_path: Path, kind: str
) -> None:
    async with FakeFaktory() as faktory:
        store = own_server.url(0)
        url, records = (store, None) if kind == "rq" else (faktory.url, store)
        async with aio.connect(url, records=records) as queue:
            jobs = [f"job{number}" for number in range(30)]
            handles = [await queue.enqueue(writing(tmp_path, name)) for name in jobs]
            async with consuming(url, records_url=records, concurrency=4):
                for ended in (3, 12, 20):
                    await until(lambda ended=ended: len(_lines(tmp_path / "runs")) >= ended)
                    own_server.stop(kill=True)
                    own_server.start()
                outcomes = await asyncio.gather(*(handle.wait(60) for handle in handles))
                logs = [await _log(handle) for handle in handles]
        assert {outcome.status for outcome in outcomes} == {Status.SUCCEEDED}
        assert set(logs) == {b"done\n"}
        told_once(tmp_path, jobs)


@pytest.mark.row(46)
@pytest.mark.parametrize("kind", ["rq", "faktory"])
@pytest.mark.parametrize("forgotten", ["the end", "the claim and the end"])
async def test_a_store_that_was_set_back_is_told_the_last_ends_again(kind: str, forgotten: str) -> None:
    """As after a failover to a replica that lagged: acknowledged writes are gone."""
    async with FakeFaktory() as faktory:
        with RedisServer("--appendonly", "no", "--save", "") as server, structlog.testing.capture_logs() as said:
            store = server.url(0)
            url, records = (store, None) if kind == "rq" else (faktory.url, store)
            settings = Settings(queue_url=url, records_url=records, executor="null")
            queue, _ = await open_queue(settings)
            async with aio.connect(url, records=records) as producer:
                handle = await producer.enqueue(Job(commands=["true"]))
                if forgotten == "the claim and the end":
                    _snapshot(server)
                claims: list[Claim] = []
                while not claims:
                    claims += await queue.claim(5)
                if forgotten == "the end":
                    _snapshot(server)
                assert await queue.settle([settlement(claims[0])]) == {}
                server.stop(kill=True)
                server.start()
                assert (await handle.wait(30)).succeeded
                assert await queue.claim(5) == []
                assert [entry["settled_again"] for entry in said if entry["event"] == "redis_lost_writes"] == [1]
            assert not faktory.working
            assert not faktory.queues.get("default")
            await queue.close()


@pytest.mark.row(46)
async def test_a_running_claim_that_a_store_forgot_is_claimed_again_as_the_same_attempt() -> None:
    with RedisServer("--appendonly", "no", "--save", "") as server:
        queue, _ = await open_queue(Settings(queue_url=server.url(0), executor="null"))
        async with aio.connect(server.url(0)) as producer:
            await producer.enqueue(Job(commands=["true"]))
            _snapshot(server)
            (claim,) = await queue.claim(5)
            server.stop(kill=True)
            server.start()
            assert await queue.beat([claim]) == {claim.token: Signal.LOST}
            (again,) = await queue.claim(5)
            assert (again.id, again.attempt) == (claim.id, claim.attempt)  # so its pod is found by its name
            assert again.token != claim.token
        await queue.close()


@pytest.mark.row(53)
@pytest.mark.parametrize("fault", ["slow and in pieces", "cut in the middle of answers", "silent for a while"])
async def test_a_bad_network_costs_no_job(redis_url: str, tmp_path: Path, fault: str) -> None:
    jobs = [f"job{number}" for number in range(12)]
    async with TcpProxy(redis_url) as proxy, aio.connect(redis_url) as queue:
        handles = [await queue.enqueue(writing(tmp_path, name)) for name in jobs]
        if fault == "slow and in pieces":
            proxy.latency, proxy.piece = 0.001, 61
        async with consuming(through(redis_url, proxy), concurrency=3):
            if fault == "cut in the middle of answers":
                await until(lambda: len(_lines(tmp_path / "runs")) >= 2)
                proxy.cut_after = 3_007  # enough for a claim, and in the middle of one sooner or later
            if fault == "silent for a while":
                await until(lambda: len(_lines(tmp_path / "runs")) >= 3)
                proxy.silent, made = True, proxy.connections
                proxy.cut()
                await until(lambda: proxy.connections > made)  # they notice, and dial into silence
                proxy.silent = False
                proxy.cut()
            outcomes = await asyncio.gather(*(handle.wait(90) for handle in handles))
            assert {await _log(handle) for handle in handles} == {b"done\n"}
        assert {outcome.status for outcome in outcomes} == {Status.SUCCEEDED}
        assert proxy.connections > 3
    told_once(tmp_path, jobs)


@pytest.mark.row(48)
async def test_a_server_that_may_drop_our_keys_is_warned_about() -> None:
    options = ("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    with RedisServer(*options) as server, structlog.testing.capture_logs() as said:
        queue, _ = await open_queue(Settings(queue_url=server.url(0)))
        await queue.close()
    (warning,) = [entry for entry in said if entry["event"] == "redis_may_evict_jobs"]
    assert (warning["policy"], warning["fix"]) == ("allkeys-lru", "CONFIG SET maxmemory-policy noeviction")


async def test_a_server_that_is_too_old_is_refused_at_start(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def old(*_: object, **__: object) -> dict[str, str]:
        return {"redis_version": "6.0.16"}

    monkeypatch.setattr(redis.asyncio.Redis, "info", old)
    with pytest.raises(SetupError, match=r"is 6\.0; longshore needs 6\.2 or newer"):
        await open_queue(Settings(queue_url=redis_url))
    with pytest.raises(SetupError, match=r"is 6\.0; longshore needs 6\.2 or newer"):
        await open_queue(Settings(queue_url="tcp://127.0.0.1:1", records_url=redis_url))


def _snapshot(server: RedisServer) -> None:
    with redis.Redis.from_url(server.url(0)) as control:
        control.save()


def _lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


async def _log(handle: aio.AsyncHandle) -> bytes:
    return b"".join([part async for part in handle.logs()])


@pytest.mark.parametrize("kind", ["rq", "faktory"])
async def test_a_server_that_goes_while_a_consumer_arrives_is_waited_for(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    async def away(self: Standings) -> str:
        raise redis.ConnectionError("Connection refused")

    async with FakeFaktory() as faktory:
        url, records = (redis_url, None) if kind == "rq" else (faktory.url, redis_url)
        settings = Settings(queue_url=url, records_url=records, queues=("q",), executor="null")
        before = asyncio.all_tasks()
        with monkeypatch.context() as patched:
            patched.setattr(Standings, "identify", away)
            with pytest.raises(QueueUnavailable, match=r"no Redis at .*Connection refused"):
                await open_queue(settings, portable=True)
        assert not {task for task in asyncio.all_tasks() - before if "FakeFaktory" not in str(task.get_coro())}
        opened, _ = await open_queue(settings, portable=True)
        await opened.close()
