"""Fixtures for all tests. Real servers first: what speaks to Redis speaks to a real, private one."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest
import redis
import redis.asyncio
import structlog
from hypothesis.configuration import set_hypothesis_home_dir

from consumer import telemetry
from support.ledger import pytest_configure, pytest_sessionfinish, pytest_testnodedown
from support.redis_server import RedisServer
from support.s3_server import s3_server

__all__ = ["pytest_configure", "pytest_sessionfinish", "pytest_testnodedown", "s3_server"]

ROOT = Path(__file__).parent.parent

# No deadline: the machine may be busy, and a slow example is no wrong one. In CI the examples are the same every time.
set_hypothesis_home_dir(ROOT / ".cache" / "hypothesis")
hypothesis.settings.register_profile("longshore", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("longshore")


@pytest.fixture(scope="session", autouse=True)
def state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where jobs that run as processes live: of this test run alone. What a test has left running ends with it."""
    home = tmp_path_factory.mktemp("state")
    os.environ["XDG_STATE_HOME"] = str(home)
    yield home
    for control in home.glob("longshore/*/control"):
        with contextlib.suppress(OSError):
            handle = os.open(control, os.O_WRONLY | os.O_NONBLOCK)
            os.write(handle, b"stop 0\n")
            os.close(handle)


@pytest.fixture
def own_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The test may set the log up as a command does: it is set back, and no module keeps a logger of this test."""
    before, root, ours = structlog.get_config(), logging.getLogger(), logging.getLogger("consumer")
    handlers, level, least = root.handlers[:], ours.level, telemetry._least
    configure = structlog.configure
    monkeypatch.setattr(
        structlog, "configure", lambda **settings: configure(**settings | {"cache_logger_on_first_use": False})
    )
    yield
    configure(**before)
    root.handlers[:] = handlers
    ours.setLevel(level)
    telemetry._least = least


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A real server of this test run alone, on a Unix socket. A test that stops or fills it starts its own instead."""
    server = RedisServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty database of the private server. (Pub/sub channels are shared by all databases.)"""
    return redis_server.fresh_url()


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    """A blocking client on `redis_url` that returns bytes."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
async def async_redis(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """An asyncio client on `redis_url` that returns bytes."""
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        yield client
