"""What holds while the engine doesn't answer: what runs is waited for, and nothing is started."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from consumer.errors import ExecutorFault
from consumer.executors.docker.executor import DockerExecutor
from consumer.settings import Docker
from support.executors import Harness, opened, read

pytestmark = pytest.mark.docker


class Cable:
    """A socket that leads to the engine, until it is cut."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def mend(self) -> None:
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def cut(self) -> None:
        assert self._server is not None
        self._server.close()
        self.path.unlink(missing_ok=True)
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, to_engine = await asyncio.open_unix_connection(os.environ["DOCKER_HOST"].removeprefix("unix://"))
        self._writers |= {writer, to_engine}
        await asyncio.gather(_pump(reader, to_engine), _pump(theirs, writer))
        self._writers -= {writer, to_engine}


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def through(cable: Cable, harness: Harness) -> AsyncIterator[DockerExecutor]:
    same = harness.executor._settings.model_dump()  # type: ignore[attr-defined]
    executor = DockerExecutor(Docker(**(same | {"host": f"unix://{cable.path}"})), "behind")
    await cable.mend()
    await executor.open()
    try:
        yield executor
    finally:
        await executor.close()
        await cable.cut()


async def test_what_runs_is_waited_for_and_nothing_is_started(tmp_path: Path) -> None:
    if not os.environ.get("DOCKER_HOST", "unix://").startswith("unix://"):
        pytest.skip("the engine's socket isn't here")
    async with opened("docker", tmp_path) as harness:
        cable = Cable(tmp_path / "engine.sock")
        async with through(cable, harness) as executor:
            waits = ["trap go=1 USR1", "echo one", 'until [ "${go-}" ]; do sleep 0.1; done']
            plan = harness.plan(commands=[*waits, "echo two", "echo a=b >> $LONGSHORE_OUTCOME"])
            execution = await executor.start(plan)
            reading = asyncio.create_task(read(execution))
            await execution.started()
            await cable.cut()
            with pytest.raises(ExecutorFault) as caught:
                await executor.start(harness.plan(commands=["true"]))
            assert (caught.value.down, caught.value.started) == (True, False)
            assert "doesn't answer" in (executor.trouble or "")
            direct = await harness.executor.start(replace(plan, begun=True))
            harness.executions.append(direct)
            async for _ in direct.logs():
                break
            await harness.executor.engine.kill(direct.where.container, "USR1")  # type: ignore[attr-defined]
            assert (await direct.wait()).code == 0
            assert not execution._done
            await cable.mend()
            exit = await asyncio.wait_for(execution.wait(), 60)
            assert (exit.code, exit.variables) == (0, (("a", "b"),))
            assert await asyncio.wait_for(reading, 60) == b"one\ntwo\n"
            again = await executor.start(harness.plan(commands=["true"]))
            assert (await again.wait()).code == 0
            assert executor.trouble is None
            await again.remove()
            await execution.detach()
