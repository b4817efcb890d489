"""Runs Plans as containers of one engine: a name is a compare-and-set, a restart finds what runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from consumer.errors import ExecutorFault, SetupError, Unrunnable
from consumer.executors import names
from consumer.executors.circuit import Circuit
from consumer.executors.docker.container import (
    STEP,
    Containers,
    adopted,
    build,
    images_of,
    key_of,
    name_of,
    refusals,
)
from consumer.executors.docker.engine import Engine, EngineError
from consumer.executors.docker.execution import ContainerExecution
from consumer.executors.docker.images import check_config, credentials
from consumer.executors.docker.sweep import Sweeper
from consumer.executors.docker.verdict import State, hopeless, refused, state_of
from consumer.executors.policy import pull_policy
from consumer.model import Plan
from consumer.ports import Records
from consumer.settings import Docker, Settings
from consumer.tasks import end
from enqueue.record import Reason, Where

log = logging.getLogger(__name__)

OURS = f"{names.MANAGED_BY}=longshore"
PULL_FIRST, PULL_CAP = 1.0, 15.0
"""Seconds between two tries of a pull, doubled each time."""
LISTEN_PAUSE = 1.0
"""Seconds until a stream of events that ended is asked for again."""


class DockerExecutor:
    """The executor for one engine. `open` before anything else."""

    name = "docker"
    detachable = True
    portable = False
    silent = False
    collects = True

    def __init__(self, settings: Docker, consumer: str) -> None:
        self._settings = settings
        self._where = Where(executor=self.name, consumer=consumer)
        self._opened: Engine | None = None
        self._listener: asyncio.Task[None] | None = None
        self._running: dict[str, ContainerExecution] = {}
        self._starting: dict[str, asyncio.Lock] = {}
        self._pulling: dict[str, asyncio.Lock] = {}
        self._circuit = Circuit()

    @property
    def trouble(self) -> str | None:
        """Why the engine takes no containers now."""
        return self._circuit.trouble

    def reload(self, settings: Settings) -> None:
        """What containers are made of, and what jobs may ask for. Raises SetupError."""
        if settings.docker.registry_config is not None:
            check_config(settings.docker.registry_config)
        self._settings = settings.docker

    def refuse(self, plan: Plan) -> Iterable[tuple[Reason, str]]:
        """What can't be honoured here."""
        return refusals(plan, self._settings)

    async def open(self) -> None:
        """Connect. Raises SetupError that names what is wrong, ExecutorFault if the engine doesn't answer."""
        if self._settings.registry_config is not None:
            check_config(self._settings.registry_config)
        engine = Engine(self._settings)
        try:
            await engine.ping()
        except EngineError as error:
            await engine.close()
            if error.passing:
                raise ExecutorFault(f"no engine answers at {self._settings.url}: {error}") from None
            raise SetupError(f"docker.host: {self._settings.url}: {error}") from None
        except BaseException:
            await engine.close()
            raise
        self._opened = engine
        self._listener = asyncio.create_task(self._listen(engine), name="docker events")

    async def close(self) -> None:
        """Free connections; containers run on."""
        if self._listener is not None:
            await end(self._listener)
        for execution in tuple(self._running.values()):
            await execution.detach()
        if self._opened is not None:
            await self._opened.close()
        self._opened = self._listener = None

    async def start(self, plan: Plan) -> ContainerExecution:
        """Create the attempt's containers, or adopt those that run this job already; only adopt if `plan.begun`.

        Raises Unrunnable, ExecutorFault.
        """
        engine, name = self.engine, name_of(plan)
        lock = self._starting.setdefault(name, asyncio.Lock())
        try:
            async with lock:
                if name not in self._running:
                    try:
                        self._running[name] = await self._start(engine, plan, name)
                    except EngineError as error:
                        if error.passing:
                            self._circuit.refused(f"the engine doesn't answer: {error}")
                        raise refused(error) from None
                    self._circuit.worked()
                return self._running[name]
        finally:
            if not lock.locked():
                self._starting.pop(name, None)

    async def sweep(self, records: Records) -> None:
        """Delete containers that outlived their jobs, until cancelled."""
        await Sweeper(self.engine, OURS, self._settings.sweep_interval, self._held).run(records)

    def _held(self, name: str) -> bool:
        return any(name in execution.names for execution in self._running.values())

    async def _start(self, engine: Engine, plan: Plan, name: str) -> ContainerExecution:
        settings = self._settings  # for all of it, whatever they change to meanwhile
        found = await self._find(engine, plan, name)
        ours = fetch = None
        if found is None:
            if plan.begun:
                lost = (
                    f"the container {name} had begun, and this engine has none: it was removed, or ran on another one"
                )
                raise ExecutorFault(lost, Reason.CONSUMER_LOST, started=True)
            containers, images = build(plan, settings), images_of(plan.job, settings)
            if [image for image in images if await self._to_pull(engine, plan, image, settings)]:
                fetch = self._fetch(engine, plan, settings)
            else:
                containers, ours = await self._create(engine, plan, settings)
        else:  # perhaps another attempt's containers
            containers = adopted(replace(plan, attempt=found.attempt), settings)
        execution = ContainerExecution(
            engine,
            plan,
            lambda: self._where,
            containers,
            fetch=fetch,
            ours=bool(ours or fetch),
            forget=self._forgetter(name),
        )
        states = [found] if found is not None else []
        if found is not None and containers.init is not None:
            init = await engine.inspect(containers.init.name)
            if init is None and found.fresh:  # its consumer died between the two
                await self._create_init(engine, build(replace(plan, attempt=found.attempt), settings))
                init = await engine.inspect(containers.init.name)
            states += [state_of(init)] if init is not None else []
        execution.begin(*states)
        return execution

    async def _find(self, engine: Engine, plan: Plan, name: str) -> State | None:
        """The main container that runs this job already: this attempt's, else a running one of another attempt."""
        listed = await engine.list(OURS, f"{names.JOB}={key_of(plan)}", f"{STEP}=main")
        wanted = sorted((str(item["Names"][0]).lstrip("/") for item in listed), key=lambda other: other != name)
        for other in wanted:
            raw = await engine.inspect(other)
            if raw is None:
                continue
            state = state_of(raw)
            created = state.labels.get(names.CREATED, "")
            if created and plan.created and created != plan.created:
                if state.begun and not state.over:
                    raise ExecutorFault(
                        f"the container {other} still runs a former job of the same id: wait for its end"
                    )
                await engine.delete(f"{other}-init")
                await engine.delete(state.id)
                continue
            if other != name and (state.over or not state.begun):
                continue
            if state.labels.get(names.DIGEST) != plan.job.digest():
                problem = f"the container {other} runs another job under the same id; give each job an id of its own"
                raise Unrunnable(f"id: {problem}", Reason.REFUSED)
            return state
        return None

    async def _create(self, engine: Engine, plan: Plan, settings: Docker) -> tuple[Containers, bool]:
        """(the containers, whether it was we who made them). Raises EngineError, Unrunnable."""
        entrypoint = await self._entrypoint(engine, plan, settings)
        containers = build(plan, settings, entrypoint)
        await plan.confirm()
        ours = True
        try:
            await engine.create(containers.main.name, containers.main.body)
        except EngineError as error:
            if not error.taken:
                raise
            ours = False
        await self._create_init(engine, containers)
        return containers, ours

    async def _create_init(self, engine: Engine, containers: Containers) -> None:
        """After the main one, whose volumes it shares."""
        if containers.init is None:
            return
        try:
            await engine.create(containers.init.name, containers.init.body)
        except EngineError as error:
            if not error.taken:
                raise

    async def _entrypoint(self, engine: Engine, plan: Plan, settings: Docker) -> list[str]:
        """The image's own, if the job relies on it and the command must be spelled out."""
        job = plan.job
        if job.commands or job.entrypoint or not any(variable.sensitive for variable in job.variables):
            return []
        image = await engine.image(images_of(job, settings)[0])
        return list(((image or {}).get("Config") or {}).get("Entrypoint") or [])

    async def _to_pull(self, engine: Engine, plan: Plan, image: str, settings: Docker) -> bool:
        """Whether it must be pulled first. Raises Unrunnable if it may not be."""
        policy = pull_policy(image, plan.job, settings)
        if policy == "Always":
            return True
        if await engine.image(image) is not None:
            return False
        if policy == "Never":
            raise Unrunnable(f"image: the engine hasn't got {image}, and no image is pulled here", Reason.IMAGE_PULL)
        return True

    def _fetch(
        self, engine: Engine, plan: Plan, settings: Docker
    ) -> Callable[[Callable[[str], None]], asyncio.Future[Containers]]:
        async def fetch(waits: Callable[[str], None]) -> Containers:
            for image in images_of(plan.job, settings):
                await self._pull(engine, plan, image, settings, waits)
            waits("the engine makes its container")
            return (await self._create(engine, plan, settings))[0]

        return lambda waits: asyncio.ensure_future(fetch(waits))

    async def _pull(
        self, engine: Engine, plan: Plan, image: str, settings: Docker, waits: Callable[[str], None]
    ) -> None:
        """Once for all jobs that want it now; tried again while that may help. Raises Unrunnable, EngineError."""
        lock = self._pulling.setdefault(image, asyncio.Lock())
        waits(f"the image {image} is being pulled")
        async with lock:
            began, pause = time.monotonic(), PULL_FIRST
            while await self._to_pull(engine, plan, image, settings):
                try:
                    await engine.pull(image, credentials(settings.registry_config, image))
                    return
                except EngineError as error:
                    said = f"the image {image} can't be pulled: {error}"
                    if hopeless(error) or time.monotonic() - began + pause > settings.image_pull_grace:
                        raise Unrunnable(said, Reason.IMAGE_PULL) from None
                    waits(said)
                await asyncio.sleep(pause)
                pause = min(PULL_CAP, pause * 2)

    async def _listen(self, engine: Engine) -> None:
        """Tell executions what the engine tells."""
        while True:
            with contextlib.suppress(EngineError):
                if self._where.node is None:
                    self._where = self._where.model_copy(update={"node": (await engine.info()).get("Name")})
                async with contextlib.aclosing(engine.events(OURS)) as events:
                    async for event in events:
                        self._heard((event.get("Actor") or {}).get("Attributes", {}).get("name"))
            await asyncio.sleep(LISTEN_PAUSE)

    def _heard(self, name: str | None) -> None:
        for execution in tuple(self._running.values()):
            if name is None or name in execution.names:
                execution.hear(name)

    def _forgetter(self, name: str) -> Callable[[], None]:
        def forget() -> None:
            self._running.pop(name, None)

        return forget

    @property
    def engine(self) -> Engine:
        """The client of the engine. Raises ExecutorFault before `open`."""
        if self._opened is None:
            raise ExecutorFault("the docker executor isn't open")
        return self._opened
