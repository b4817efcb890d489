"""A log that goes to S3, which is away for a part of it or for good: the job goes on, and what is missing is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from consumer.bucket import Answer, Bucket
from consumer.model import LogPosition
from consumer.settings_sinks import S3
from consumer.sinks import shipping
from consumer.sinks.s3 import PART, S3Target
from consumer.sinks.shipping import ShippingSink, Store
from consumer.storing import Away, Refused
from enqueue import Job, aio
from enqueue.record import Tally
from support.consuming import consuming, until
from support.s3_server import S3Server
from support.tcp_proxy import TcpProxy


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-real-secret")


@pytest.fixture
def settings(s3_server: S3Server) -> S3:
    return S3(bucket=s3_server.make_bucket(), endpoint=s3_server.endpoint)


@pytest.fixture
async def proxy(s3_server: S3Server) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(s3_server.endpoint) as one:
        yield one


def flags_of(bucket: str, proxy: TcpProxy, sinks: list[str], finish: float) -> dict[str, Any]:
    return {"logs": {"sinks": sinks, "finish": finish}, "s3": {"bucket": bucket, "endpoint": proxy.url}}


async def test_a_log_is_whole_when_s3_comes_back_while_its_job_runs(
    redis_url: str, s3_server: S3Server, proxy: TcpProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "UNWELL", 15)
    bucket = s3_server.make_bucket()
    numbers = [f"awk 'BEGIN {{ for (n = 0; n < {lines}; n++) printf \"%099d\\n\", n }}'" for lines in (54_000, 1000)]
    gates = [f"while [ ! -e {tmp_path}/{gate} ]; do sleep 0.02; done" for gate in ("away", "back")]
    job = Job(commands=[numbers[0], gates[0], numbers[1], f"touch {tmp_path}/printed", gates[1], "echo last"])
    async with consuming(redis_url, **flags_of(bucket, proxy, ["record", "s3"], 15)), aio.connect(redis_url) as queue:
        handle = await queue.enqueue(job)
        await until(lambda: proxy.connections)
        proxy.away = True
        proxy.cut()
        (tmp_path / "away").touch()
        await until(lambda: proxy.refused and (tmp_path / "printed").exists())
        proxy.away = False
        (tmp_path / "back").touch()
        assert (await handle.wait(60)).succeeded
        record = await handle.record()
    assert [(link.bytes, link.problem) for link in record.log.links] == [(5_500_005, None)]
    stored = s3_server.read(bucket, f"default/{handle.id}/1.log")
    assert stored == b"".join(b"%099d\n" % n for n in (*range(54_000), *range(1000))) + b"last\n"


async def test_a_job_whose_log_was_for_s3_alone_ends_without_it_and_says_so(
    redis_url: str, s3_server: S3Server, proxy: TcpProxy
) -> None:
    bucket = s3_server.make_bucket()
    proxy.away = True
    async with consuming(redis_url, **flags_of(bucket, proxy, ["s3"], 0.1)), aio.connect(redis_url) as queue:
        handle = await queue.enqueue(Job(commands=["seq 10"], count_output=True))
        assert (await handle.wait(60)).succeeded
        log = (await handle.record()).log
    assert (log.written, log.read) == (Tally(lines=10, bytes=21), Tally(lines=10, bytes=21))
    assert log.complete == "gap"
    assert "couldn't be reached" in (log.links[0].problem or "")


async def test_answers_that_are_lost_double_and_lose_nothing(
    settings: S3, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request is carried out, and then its answer is lost once: the last one ends an upload."""
    monkeypatch.setattr(shipping, "PAUSE", 0.001)
    ask, lost = Bucket.ask, set()

    async def losing(bucket: Bucket, method: str, key: str, **more: Any) -> Answer:
        answer = await ask(bucket, method, key, **more)
        request = method, tuple(more.get("query") or ())
        if request not in lost:
            lost.add(request)
            raise Away("the answer was lost")
        return answer

    monkeypatch.setattr(Bucket, "ask", losing)
    for size in (4, 2 * PART + 4):
        data = bytes(range(256)) * (size // 256) + b"last"
        sink = ShippingSink(
            Store("s3"), S3Target(Bucket(settings), f"log-{size}"), start=LogPosition(), backlog=None, patience=30
        )
        for at in range(0, len(data), 1 << 20):
            await sink.write(data[at : at + (1 << 20)])
        await sink.finish()
        assert (sink.link.bytes, sink.link.problem) == (len(data), None)
        assert s3_server.read(settings.bucket or "", f"log-{size}") == data
    assert ("POST", ("uploadId",)) in lost


async def test_of_a_log_that_outgrew_the_memory_the_head_can_be_read(
    settings: S3, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "PAUSE", 0.001)
    monkeypatch.setattr(shipping, "WINDOW", 2 * PART)
    store = Store("s3")
    target = S3Target(Bucket(settings), "log")
    sink = ShippingSink(store, target, start=LogPosition(), backlog=None, patience=30)
    await sink.write(b"a" * PART)
    await until(lambda: sink.link.bytes)
    store.unwell("away")  # so that nobody waits for room
    ask = Bucket.ask

    async def away(*_: Any, **more: Any) -> Answer:
        raise Away("away")

    monkeypatch.setattr(Bucket, "ask", away)
    for _ in range(3):
        await sink.write(b"b" * PART)
    monkeypatch.setattr(Bucket, "ask", ask)
    await sink.finish()
    assert sink.link.problem == "what follows was dropped before the store took it"
    assert s3_server.read(settings.bucket or "", "log") == b"a" * PART
    again = S3Target(Bucket(settings), "log")
    assert await again.stored() == PART
    with pytest.raises(Refused, match="its end has been stored already"):
        await again.put(PART, b"c", last=True)
    await again.abandon()
