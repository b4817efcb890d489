"""One history: whole consumers on one Store and one cluster, and what a seed makes of their lives."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest import mock

import structlog

from consumer import app
from consumer.extras import Extras
from consumer.queues import rq_worker
from consumer.settings import Retention, Settings, load_settings
from enqueue.job import Job
from enqueue.protocol import cancelled_record
from enqueue.record import Record, Times
from enqueue.times import rfc3339
from enqueue.wire import rq as wire
from simulate.clock import EPOCH, PROCESS, Process, Stuck, VirtualLoop, virtual
from simulate.cluster import SimulatedKube, SimulatedPod, outcome_of
from simulate.executor import SimulatedExecutor
from simulate.faults import Plan, drawn_plan
from simulate.jobs import SECRET, Case, drawn, live
from simulate.judge import Judge, Violation
from simulate.redis_double import RedisDouble, SimulatedQueue, broken
from simulate.store import Store
from simulate.wire import Weather, Wire
from support.history import FINAL, Event, History

LIMIT = 900.0
"""Virtual seconds until all has ended."""
PATIENCE = 90.0
"""Virtual seconds from the end of all faults to the end of all jobs: what they last, and every pause that grew."""
BUGS = (
    "internal_error", "job_crashed_the_consumer_code", "helper_failed", "heartbeat_failed", "claim_failed",
    "cancellations_not_heard", "watchers_not_heard", "claim_unreadable", "sign_of_life_failed",
)  # fmt: skip
"""What the consumer logs of errors of its own."""


@cache
def settings_of(name: str) -> Settings:
    """A consumer's."""
    return load_settings(
        queue_url="redis://simulated/0",
        queues=["q"],
        executor="kubernetes",
        name=name,
        concurrency=SLOTS,
        shutdown_grace=2,
        jobs={"grace": 1},
        kubernetes={"namespace": "jobs", "sweep_interval": 8, "lease_seconds": 9, "image_pull_grace": 3},
    )


SLOTS = 3


class Consumer:
    """One process of `longshore run`."""

    def __init__(self, world: World, name: str, slot: int) -> None:
        self.world, self.process, self.slot = world, Process(name), slot
        self.stop = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Run it, in a context of its own."""
        PROCESS.set(self.process)
        self.task = asyncio.get_running_loop().create_task(app.run_consumer(settings_of(f"c{self.slot}"), self.stop))
        self.task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not self.process.dead:
            self.world.fail(Violation(f"B1: a consumer ended with {type(error).__name__}: {error}"))

    @property
    def lives(self) -> bool:
        """It works, or will after a pause."""
        return self.task is not None and not self.task.done() and not self.process.dead

    def executor(self, settings: Settings) -> SimulatedExecutor:
        """As `make_executor` does."""
        world = self.world
        made = SimulatedExecutor(settings.kubernetes, settings.name)
        return made.connect(settings, world.kube, Wire(world.loop, self.process, world.cluster, _refused))

    async def queue(self, settings: Settings) -> tuple[Any, Any]:
        """As `open_queue` does."""
        world = self.world
        made = SimulatedQueue(
            settings.queue_url, settings.queues, consumer=settings.name, max_bytes=settings.jobs.max_bytes,
            retention=Retention(),
        )  # fmt: skip
        client = RedisDouble(world.store, Wire(world.loop, self.process, world.redis, broken))
        await made.connect(client).open()
        return made, made.records


class World:
    """All of it."""

    def __init__(self, loop: VirtualLoop, seed: int, plan: Plan | None = None) -> None:
        self.loop, self.seed = loop, seed
        self.rng = rng = random.Random(f"world {seed}")
        self.history = History(slots=SLOTS, rate=200, secrets=[SECRET.encode()])
        self.judge = Judge(self.history)
        self.redis, self.cluster = Weather(random.Random(f"redis {seed}")), Weather(random.Random(f"kube {seed}"))
        self.store = Store("q", lambda: EPOCH + loop.now, self.note, "simulated")
        self.kube = SimulatedKube(loop, rng, self.cluster, self.note, self.life)
        self.cases = {case.id: case for case in drawn(random.Random(f"jobs {seed}"), rng.randint(3, 8))}
        self.plan = plan or drawn_plan(random.Random(f"faults {seed}"))
        self.consumers: list[Consumer] = []
        self.story: list[str] = []
        """What was done to them, in words."""
        self._started = 0
        self.over = False

    # --- what everything else tells

    def note(self, event: Event) -> None:
        """An event of a server."""
        try:
            self.judge.note(event)
        except Violation as violation:
            self.fail(violation)

    def fail(self, violation: Violation) -> None:
        """The run ends here."""
        if self.loop.ended is None and not self.over:
            self.loop.ended = violation

    def heard(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What nobody caught; what nobody asked for is found out too late to be told of the right moment."""
        process = PROCESS.get()
        if "never retrieved" not in context["message"] and not (process is not None and process.dead):
            self.fail(Violation(f"B1: {context['message']}: {context.get('exception')!r}"))

    def tell(self, text: str) -> None:
        """For people who read a failure."""
        self.story.append(f"{self.loop.now:9.3f} {text}")

    async def life(self, pod: SimulatedPod) -> None:
        """A pod's, by its job."""
        job, attempt = self.kube.whose[pod.uid]
        case = self.cases[job]
        await live(pod, case, attempt, "variables" in case.job)

    # --- what happens

    def start_consumer(self, slot: int) -> Consumer:
        """A new process."""
        self._started += 1
        made = Consumer(self, f"c{slot}.{self._started}", slot)
        self.consumers.append(made)
        contextvars.Context().run(made.start)
        self.tell(f"{made.process.name} starts")
        return made

    async def run(self) -> None:
        """To the end. Raises Violation."""
        loop = self.loop
        for slot in range(self.plan.consumers):
            loop.later(self.rng.uniform(0, 1), self.start_consumer, slot)
        for case in self.cases.values():
            loop.later(case.at, self._enqueue, case)
            if case.cancel is not None:
                loop.later(case.cancel + 0.001, self._cancel, case)
        self.plan.begin(self)
        while not (loop.now > self.plan.over and self._all_ended()):
            if loop.now > LIMIT:
                left = [case.id for case in self.cases.values() if not self._ended(case)]
                raise Violation(f"I1: not ended after {LIMIT:g} s: {', '.join(left)}")
            await asyncio.sleep(1)
        for _ in range(90):  # what is left is swept
            if not self.kube.names("pods") and not self.kube.names("secrets"):
                break
            await asyncio.sleep(1)
        self.finish()

    def finish(self) -> None:
        """What must hold at the end. Raises Violation."""
        history = self.history
        history.accepted = {case.id for case in self.cases.values() if not self._cancelled_by_rq(case)}
        history.queued = set(self.store.held())
        last = max(self.plan.over, *(case.at for case in self.cases.values()))
        history.fault_over, history.patience = EPOCH + last, PATIENCE
        history.left = [f"{kind}/{name}" for kind in ("pods", "secrets") for name in self.kube.names(kind)]
        for case in self.cases.values():
            record = self.store.record(case.id)
            pods = [uid for uid in self.kube.began if self.kube.whose[uid][0] == case.id]
            # Of one that was gone before anybody told that it runs, nobody can know that it wrote something.
            if len(record.get("attempts") or ()) == len(pods) == 1 and (case.id, 1) in self.judge.told_running:
                history.written[case.id] = [self._masked(line) for lines in case.written.values() for line in lines]
                history.stored[case.id] = self.store.log(case.id)
            history.kept[case.id] = self.store.log(case.id) + str(record).encode()
            self._reported(case, record)
        self.judge.finish()

    @staticmethod
    def _masked(line: bytes) -> bytes:
        return line.replace(SECRET.encode(), b"***")

    def _reported(self, case: Case, record: dict[str, Any]) -> None:
        """T1, R2: the Record tells what the pods did."""
        if record.get("status") not in FINAL and not self._cancelled_by_rq(case):
            raise Violation(f"I1: {case.id} has ended without a final Record: {record.get('status')}")
        # Those alone that somebody saw run: of the others nobody can know that they did.
        began = {attempt for job, attempt in self.judge.told_running if job == case.id}
        allowed = 1 + case.job["retries"] + case.job["infrastructure_retries"]
        if len(began) > allowed:
            raise Violation(f"R2: {case.id} ran {len(began)} times, and may {allowed} times")
        if record.get("status") == "cancelled" and case.cancel is None:
            raise Violation(f"T1: {case.id} was cancelled, and nobody asked for it")
        for told in record.get("attempts") or ():
            really = outcome_of(self.kube, case.id, told["attempt"])
            if told["status"] == "succeeded" and 0 not in really:
                raise Violation(f"T1: {case.id} attempt {told['attempt']} succeeded, and its pods ended with {really}")
            if told.get("exit_code") is not None and told["exit_code"] not in really:
                raise Violation(f"T1: {case.id} ended with {told['exit_code']}, and its pods with {really}")

    def _ended(self, case: Case) -> bool:
        return case.id in self.store.jobs and self.store.ended(case.id) and not self._held(case)

    def _cancelled_by_rq(self, case: Case) -> bool:
        """Then RQ's word is what counts: whoever held it may be dead."""
        return case.by_rq and self.store.jobs[case.id].text("status") == "canceled"

    def _held(self, case: Case) -> bool:
        return any(job == case.id for job, _, _ in self.store.wip.values())

    def _all_ended(self) -> bool:
        return all(map(self._ended, self.cases.values()))

    def _enqueue(self, case: Case) -> None:
        _, fields = wire.new_job(_job(case), "q", job_id=case.id, now=EPOCH + self.loop.now)
        self.store.enqueue(case.id, fields)

    def _cancel(self, case: Case) -> None:
        if self.store.ended(case.id):
            return
        if case.by_rq:
            self.tell(f"rq cancels {case.id}")
            self.store.cancel_by_rq(case.id)
            return
        self.tell(f"{case.id} is cancelled")
        known = self.store.record(case.id)
        times = Times(queued=rfc3339(EPOCH + case.at))
        record = Record.model_validate(known) if known else Record(id=case.id, queue="q", times=times)
        self.store.cancel(case.id, cancelled_record(record, EPOCH + self.loop.now).dumps())


def _job(case: Case) -> Job:
    return Job.load(case.job)


def _refused(why: str) -> Exception:
    return ConnectionResetError(why)


@contextmanager
def wired(world: World) -> Iterator[None]:
    """`run_consumer` finds its parts in this world, by the process that asks."""

    def mine() -> Consumer:
        process = PROCESS.get()
        return next(consumer for consumer in world.consumers if consumer.process is process)

    def heard(logger: Any, method: str, said: dict[str, Any]) -> Any:
        process = PROCESS.get()
        if said["event"] in BUGS and not (process is None or process.dead):
            error = said.get("exc_info") or said.get("error")
            world.fail(Violation(f"B1: {said['event']}: {error!r}"))
        raise structlog.DropEvent

    before = structlog.get_config()
    logging.disable(logging.WARNING)
    structlog.configure(
        processors=[heard], wrapper_class=structlog.make_filtering_bound_logger(40), cache_logger_on_first_use=False
    )
    patches = {
        "make_executor": lambda settings: mine().executor(settings),
        "open_queue": lambda settings, portable: mine().queue(settings),
        "_extras": lambda *_: Extras(),
        "allow_open_files": lambda wanted: None,
    }
    try:
        with mock.patch.multiple(app, **patches), mock.patch.object(rq_worker, "_version", return_value="0"):
            yield
    finally:
        structlog.configure(**before)
        logging.disable(logging.NOTSET)


class Result:
    """Of one history."""

    def __init__(self, world: World, problem: str | None) -> None:
        self.problem, self.story, self.steps, self.seconds = problem, world.story, world.loop.steps, world.loop.now
        self.events = world.history.events

    @property
    def digest(self) -> str:
        """Of all that happened."""
        return hashlib.sha256("\n".join(map(repr, self.events)).encode()).hexdigest()


def simulate(seed: int, plan: Plan | None = None) -> Result:
    """One history."""
    with virtual(seed) as loop:
        world = World(loop, seed, plan)
        loop.set_exception_handler(world.heard)
        problem = None
        with wired(world):
            try:
                loop.run_until_complete(world.run())
            except (Violation, Stuck) as violation:
                problem = str(violation)
            _unwind(loop, world)
        return Result(world, problem)


def _unwind(loop: VirtualLoop, world: World) -> None:
    """End all that is left, without a trace."""
    loop.ended, world.over = None, True
    for consumer in world.consumers:
        consumer.process.kill(loop)
    for _ in range(20):
        left = [task for task in asyncio.all_tasks(loop) if not task.done()]
        if not left:
            break
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.sleep(1))
