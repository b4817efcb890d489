"""A thin client of Docker's API, over aiodocker: the calls that we need, with one kind of error.

Source of the protocol: https://docs.docker.com/reference/api/engine/ (Podman speaks it too, with words of its own).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiodocker
import aiohttp

from consumer.errors import ExecutorFault, SetupError
from consumer.settings import Docker
from enqueue.tls import client_context

CALL_SECONDS = 120.0
"""An engine that deletes or unpacks much at a time may be slow."""
CONNECT_SECONDS = 10.0
ENDING_SECONDS = (0.05, 0.2, 1.0, 4.0)
"""Between two tries of a call that met a container's end."""
T = TypeVar("T")
_LONGEST_MESSAGE = 500
_NO_CONNECTION = 900  # aiodocker's word
_OPEN = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)


class EngineError(ExecutorFault):
    """The engine said no. `status` is the HTTP status; 0: no answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message, down=status in (0, 502, 503, 504))
        self.status = status

    @property
    def passing(self) -> bool:
        """There was no answer: it may be starting anew."""
        return self.down

    @property
    def gone(self) -> bool:
        """What was asked for isn't there."""
        return self.status == 404 or "no such container" in str(self)

    @property
    def ending(self) -> bool:
        """Its process ended while the engine looked at it. (Podman says 500 before it knows of the end itself.)"""
        return "no such process" in str(self)

    @property
    def taken(self) -> bool:
        """Somebody has a container of this name. (Podman says 500.)"""
        return "already in use" in str(self) and self.status in (409, 500)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Every error as an EngineError."""
    try:
        yield
    except aiodocker.DockerError as error:
        status = 0 if error.status == _NO_CONNECTION else error.status
        raise EngineError(status, _short(str(error.message))) from None
    except TimeoutError:
        raise EngineError(0, "the engine doesn't answer") from None
    except KeyError:
        raise EngineError(400, "what answers isn't an engine that speaks Docker's API") from None
    except (aiohttp.ClientError, OSError, json.JSONDecodeError) as error:
        raise EngineError(0, _short(f"the engine's answer was cut off: {str(error) or type(error).__name__}")) from None


async def _once_ended(call: Callable[[], Awaitable[T]]) -> T:
    """What is asked of a container that ends at this moment is asked again."""
    for pause in ENDING_SECONDS:
        try:
            with _told():
                return await call()
        except EngineError as error:
            if not error.ending:
                raise
        await asyncio.sleep(pause)
    with _told():
        return await call()


def _short(text: str) -> str:
    return re.sub(r"\s+", " ", text)[:_LONGEST_MESSAGE].strip()


class _Client(aiodocker.Docker):
    """Streams as they come: aiodocker decodes logs and keeps whole archives in memory."""

    @asynccontextmanager
    async def _query(self, *arguments: Any, **more: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        async with super()._query(*arguments, **more) as response:
            try:
                yield response
            finally:
                response.release()  # aiodocker leaves that to us

    def stream(
        self, path: str, params: Mapping[str, str], *, versioned: bool = True
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self._query(path, params=dict(params), timeout=_OPEN, versioned_api=versioned)


class Engine:
    """Talks to one engine. Made inside a running loop; `close` frees its connections. All raise EngineError."""

    def __init__(self, settings: Docker) -> None:
        """Raises SetupError if the TLS files can't be used."""
        self.podman = False
        """It is Podman's, which has its own ways."""
        self._connector = _connector(settings)
        scheme = "https" if settings.certificates is not None or settings.url.startswith("https") else "http"
        host = re.sub(r"^\w+://", f"{scheme}://", settings.url)
        if settings.url.startswith("unix://"):
            host = "http://localhost"  # for the URLs alone
        timeout = aiohttp.ClientTimeout(total=CALL_SECONDS, sock_connect=CONNECT_SECONDS)
        self._client = _Client(host, connector=self._connector, timeout=timeout)

    async def ping(self) -> None:
        """Find out which version of the API it speaks, and whether it is Podman's: before all else."""
        with _told():
            async with self._client.stream("_ping", {}, versioned=False) as response:
                self._client.api_version = f"v{response.headers['Api-Version']}"
                self.podman = "Libpod-Api-Version" in response.headers

    async def close(self) -> None:
        """Free the connections."""
        await self._client.close()
        await self._connector.close()

    async def info(self) -> dict[str, Any]:
        """What the engine is, and what it can do."""
        with _told():
            return dict(await self._client.system.info())

    async def version(self) -> dict[str, Any]:
        """Its versions."""
        with _told():
            return await self._client.version()

    async def networks(self) -> list[str]:
        """Their names."""
        with _told():
            return [str(network["Name"]) for network in await self._client.networks.list()]

    async def image(self, name: str) -> dict[str, Any] | None:
        """What the engine knows of an image; None: it hasn't got it."""
        try:
            with _told():
                return await self._client.images.inspect(name)
        except EngineError as error:
            if error.gone:
                return None
            raise

    async def pull(self, name: str, auth: Mapping[str, Any] | None) -> None:
        """Fetch an image from its registry."""
        with _told():
            arguments: dict[str, Any] = {"auth": dict(auth)} if auth else {}
            async for _ in self._client.images.pull(name, stream=True, timeout=None, **arguments):
                pass

    async def create(self, name: str, body: Mapping[str, Any]) -> str:
        """Make a container; its id."""
        with _told():
            return str((await self._client.containers.create(dict(body), name=name)).id)

    async def put(self, container: str, path: str, archive: bytes) -> None:
        """Unpack a tar archive in a container. What the engine's own helper broke off is tried once more."""
        try:
            await self._put(container, path, archive)
        except EngineError as error:
            if "broken pipe" not in str(error):
                raise
            await self._put(container, path, archive)

    async def _put(self, container: str, path: str, archive: bytes) -> None:
        with _told():
            await self._client.containers.container(container).put_archive(path, archive)  # type: ignore[no-untyped-call]

    async def start(self, container: str) -> None:
        """Run what was created. What runs already is left alone, what has ended is run again."""
        with _told():
            await self._client.containers.container(container).start()

    async def kill(self, container: str, signal: str) -> None:
        """Send its first process a signal; nothing happens if it has ended."""
        try:
            with _told():
                await self._client.containers.container(container).kill(signal=signal)
        except EngineError as error:
            ended = error.status == 409 or error.ending or "not running" in str(error) or "improper" in str(error)
            if not (error.gone or ended):
                raise

    async def inspect(self, container: str) -> dict[str, Any] | None:
        """All of a container; None: there is none."""
        try:
            return await _once_ended(self._client.containers.container(container).show)
        except EngineError as error:
            if error.gone:
                return None
            raise

    async def list(self, *labels: str) -> list[dict[str, Any]]:
        """The containers with all these labels, running or not."""
        parameters = {"all": "true", "filters": json.dumps({"label": list(labels)})}

        async def listed() -> list[dict[str, Any]]:
            async with self._client.stream("containers/json", parameters) as response:
                return list(await response.json(content_type=None))

        return await _once_ended(listed)

    async def delete(self, container: str) -> None:
        """Kill it if it runs, and remove it with its volumes."""
        try:
            await _once_ended(lambda: self._client.containers.container(container).delete(force=True, v=True))
        except EngineError as error:
            if not error.gone and "already in progress" not in str(error):
                raise

    @asynccontextmanager
    async def logs(self, container: str, *, follow: bool, tail: str = "all") -> AsyncIterator[AsyncIterator[bytes]]:
        """The log from its beginning, in the engine's frames, with timestamps."""
        query = {"stdout": "1", "stderr": "1", "timestamps": "1", "follow": "1" if follow else "0", "tail": tail}
        with _told():
            async with self._client.stream(f"containers/{container}/logs", query) as response:
                yield response.content.iter_any()

    @asynccontextmanager
    async def archive(self, container: str, path: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """A file of a container, running or not, as a tar archive."""
        with _told():
            async with self._client.stream(f"containers/{container}/archive", {"path": path}) as response:
                yield response.content.iter_any()

    async def events(self, label: str) -> AsyncGenerator[dict[str, Any], None]:
        """What happens to containers with this label, from now on. The first one is empty: we listen."""
        query = {"filters": json.dumps({"type": ["container"], "label": [label]})}
        with _told():
            async with self._client.stream("events", query) as response:
                yield {}
                async for line in response.content:
                    yield json.loads(line)


def _connector(settings: Docker) -> aiohttp.BaseConnector:
    """Without a bound on connections: each log that is followed has one."""
    if settings.url.startswith("unix://"):
        return aiohttp.UnixConnector(settings.url.removeprefix("unix://"), limit=0)
    return aiohttp.TCPConnector(limit=0, ssl=True if settings.certificates is None else _ssl(settings.certificates))


def _ssl(directory: Path) -> ssl.SSLContext:
    try:
        context = client_context(cafile=str(directory / "ca.pem"))
        context.load_cert_chain(str(directory / "cert.pem"), str(directory / "key.pem"))
    except (OSError, ssl.SSLError) as error:
        raise SetupError(f"docker.tls: {directory} needs ca.pem, cert.pem and key.pem: {error}") from None
    return context
