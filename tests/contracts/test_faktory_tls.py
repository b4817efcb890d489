"""Faktory behind TLS with an authority of one's own: whom the clients trust, and what they say if they don't."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from consumer.queues import open_queue
from consumer.settings import Settings
from enqueue.backends.faktory_aio import AsyncFaktoryClient
from enqueue.backends.faktory_client import FaktoryClient
from enqueue.errors import QueueUnavailable, UsageError
from enqueue.wire import faktory as wire
from support.fake_faktory import FakeFaktory
from support.faktory_servers import JOB, ended

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, and server.pem with server.key for localhost, signed by it."""
    at = tmp_path_factory.mktemp("pki")
    (at / "ext").write_text("subjectAltName=DNS:localhost\n")
    new = "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    for command in (
        f"{new} -x509 -days 2 -subj /CN=test-authority -keyout ca.key -out ca.pem",
        f"{new} -subj /CN=localhost -keyout server.key -out server.csr",
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out server.pem",
    ):
        subprocess.run(["openssl", *command.split()], cwd=at, check=True, capture_output=True)
    return at


@pytest.fixture
async def url(pki: Path) -> AsyncIterator[str]:
    """A Faktory with a password behind TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "server.pem", pki / "server.key")
    tasks: set[asyncio.Task[None]] = set()
    async with FakeFaktory(password="s3cret-word") as fake:

        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await reader.read(65536):
                    writer.write(data)
                    await writer.drain()
            writer.close()

        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            back, forth = await asyncio.open_connection("127.0.0.1", fake.port)
            for way in (forward(reader, forth), forward(back, writer)):
                task = asyncio.create_task(way)
                tasks.add(task)
                task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=context)
        yield f"faktory+tls://:s3cret-word@localhost:{server.sockets[0].getsockname()[1]}"
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def settings(url: str, **faktory: object) -> Settings:
    return Settings.model_validate({"queue_url": url, "queues": ["q"], "no_records": True, "faktory": faktory})


async def test_the_consumer_trusts_the_authority_of_its_settings(url: str, pki: Path) -> None:
    queue, _ = await open_queue(settings(url, ca_file=pki / "ca.pem"))
    try:
        producer = asyncio.create_task(asyncio.to_thread(push, url, pki / "ca.pem"))
        await producer
        claims = []
        async with asyncio.timeout(20):
            while not claims:
                claims = list(await queue.claim(5))
        assert [claim.job for claim in claims] == [JOB]
        assert await queue.settle([ended(claims[0])]) == {}
    finally:
        await queue.drain()
        await queue.close()


def push(url: str, authority: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(authority))
        with FaktoryClient(url) as client:
            client.push(wire.build_job(JOB, "q"))


async def test_without_the_authority_nobody_talks_and_the_password_stays(url: str) -> None:
    with pytest.raises(QueueUnavailable, match="its certificate isn't accepted") as error:
        await open_queue(settings(url))
    assert "s3cret" not in str(error.value)
    async with AsyncFaktoryClient(url) as client:
        with pytest.raises(QueueUnavailable, match="its certificate isn't accepted"):
            await client.info()
    with pytest.raises(QueueUnavailable, match="its certificate isn't accepted"):
        await asyncio.to_thread(FaktoryClient(url).info)


async def test_the_servers_name_is_checked(url: str, pki: Path) -> None:
    other = url.replace("localhost", "127.0.0.1")
    with pytest.raises(QueueUnavailable, match="its certificate isn't accepted"):
        await open_queue(settings(other, ca_file=pki / "ca.pem"))


async def test_a_file_that_cant_be_used_is_named(url: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ca_file: .*none.pem: No such file"):
        await open_queue(settings(url, ca_file=tmp_path / "none.pem"))
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(UsageError, match=r"ca_file: .*empty.pem: holds no certificates"):
        await open_queue(settings(url, ca_file=tmp_path / "empty.pem"))
