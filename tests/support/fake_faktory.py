"""A small Faktory server for tests: what longshore uses of the protocol, with its state open and faults on demand.

It behaves as Faktory 1.10 does, except that nothing happens by itself: reservations end and retries come back
when a test says so.
"""

from __future__ import annotations

import asyncio
import fnmatch
import hashlib
import json
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

Job = dict[str, Any]


class _Drop(Exception):
    """Close this connection now."""


@dataclass
class _Fault:
    verb: str
    when: Literal["before", "after"] | None = None
    refusal: str = ""
    times: int = 1


@dataclass
class FakeFaktory:
    """`async with FakeFaktory() as server: server.url`.

    `patience`: seconds after which a FETCH answers nil. `ledger`: all commands but HELLO, in order. `fetching`:
    FETCHes that wait now, `most_fetching` the highest number so far.
    """

    password: str | None = None
    patience: float = 0.05
    iterations: int = 4000
    queues: dict[str, deque[Job]] = field(default_factory=lambda: defaultdict(deque))
    scheduled: list[Job] = field(default_factory=list)
    punctual: bool = False
    """Scheduled jobs come when they are due, at the next FETCH."""
    retries: list[Job] = field(default_factory=list)
    dead: list[Job] = field(default_factory=list)
    working: dict[str, Job] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    workers: dict[str, str] = field(default_factory=dict)
    hellos: list[dict[str, Any]] = field(default_factory=list)
    ledger: list[tuple[str, str]] = field(default_factory=list)
    fetching: int = 0
    most_fetching: int = 0

    def __post_init__(self) -> None:
        self._faults: list[_Fault] = []
        self._connections: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}
        self._pushed = asyncio.Event()
        self._seen = asyncio.Event()

    async def __aenter__(self) -> FakeFaktory:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=64 * 1024 * 1024)
        self.port: int = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """As a server that is stopped: its state remains, but it forgets its workers."""
        self._server.close()
        self.disconnect()
        await asyncio.gather(*self._connections.values(), return_exceptions=True)
        self.workers.clear()

    @property
    def url(self) -> str:
        secret = f":{self.password}@" if self.password else ""
        return f"tcp://{secret}127.0.0.1:{self.port}"

    # --- what tests do to it

    def drop(self, verb: str, when: Literal["before", "after"], times: int = 1) -> None:
        """Close the connection of the next such command, before or after it was carried out."""
        self._faults.append(_Fault(verb, when, times=times))

    def refuse(self, verb: str, text: str, times: int = 1) -> None:
        """Answer the next such commands with -ERR."""
        self._faults.append(_Fault(verb, refusal=text, times=times))

    def disconnect(self) -> None:
        """Close every connection."""
        for task in self._connections.values():
            task.cancel()

    def expire(self, jid: str) -> None:
        """This job's reservation ends."""
        self._fail(jid, "ReservationExpired", "Faktory job reservation expired", [])

    def promote(self) -> None:
        """All retries and scheduled jobs are due."""
        for job in [*self.retries, *self.scheduled]:
            self._enqueue({key: value for key, value in job.items() if key != "at"})
        self.retries, self.scheduled = [], []

    async def saw(self, verb: str, count: int = 1) -> None:
        """Wait until this many such commands have come."""
        while sum(seen == verb for seen, _ in self.ledger) < count:
            self._seen.clear()
            await self._seen.wait()

    def verbs(self, *but: str) -> list[str]:
        """The verbs so far, in order, without those named and the heartbeats."""
        return [verb for verb, _ in self.ledger if verb not in (*but, "BEAT")]

    # --- the server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[writer] = task
        try:
            await self._talk(reader, writer)
        except (_Drop, ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            del self._connections[writer]
            if writer.transport is not None:
                writer.transport.abort() if task.cancelling() else writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greeting: dict[str, Any] = {"v": 2}
        if self.password:
            greeting |= {"i": self.iterations, "s": "5d1b3c"}
        writer.write(b"+HI " + json.dumps(greeting, separators=(",", ":")).encode() + b"\r\n")
        line = await reader.readline()
        if not line.startswith(b"HELLO {"):
            return
        hello = json.loads(line[6:])
        if self.password:
            digest = (self.password + "5d1b3c").encode()
            for _ in range(self.iterations):
                digest = hashlib.sha256(digest).digest()
            if hello.get("pwdhash") != digest.hex():
                writer.write(b"-ERR Invalid password\r\n")
                return
        self.hellos.append(hello)
        if "wid" in hello:
            self.workers.setdefault(hello["wid"], "")
        writer.write(b"+OK\r\n")
        while line := await reader.readline():
            verb, _, rest = line.rstrip(b"\r\n").decode().partition(" ")
            self.ledger.append((verb, rest))
            self._seen.set()
            fault = self._fault(verb)
            if fault is not None and fault.when == "before":
                raise _Drop
            if verb == "END":
                return
            if fault is not None and fault.refusal:
                reply = b"-ERR " + fault.refusal.encode() + b"\r\n"
            else:
                try:
                    handler = _HANDLERS.get(verb)
                    found = handler(self, rest) if handler else f"-ERR Unknown command {verb}"
                    if verb == "FETCH":
                        found = await self._fetch(rest.split(" "), hello.get("wid", ""))
                except (ValueError, KeyError) as error:
                    found = f"-ERR {error}"
                reply = _encoded(found)
            if fault is not None and fault.when == "after":
                raise _Drop
            writer.write(reply)
            await writer.drain()

    def _fault(self, verb: str) -> _Fault | None:
        for fault in self._faults:
            if fault.verb == verb and fault.times > 0:
                fault.times -= 1
                return fault
        return None

    async def _fetch(self, names: list[str], wid: str) -> Job | None:
        self.fetching += 1
        self.most_fetching = max(self.most_fetching, self.fetching)
        due = [job for job in self.scheduled if self.punctual and job["at"] <= _now()]
        for job in due:
            self.scheduled.remove(job)
            self._enqueue({key: value for key, value in job.items() if key != "at"})
        try:
            async with asyncio.timeout(self.patience):
                while True:
                    for name in names:
                        if self.queues[name] and name not in self.paused:
                            job = self.queues[name].popleft()
                            self.working[job["jid"]] = job
                            return job
                    self._pushed.clear()
                    await self._pushed.wait()
        except TimeoutError:
            return None
        finally:
            self.fetching -= 1

    def _push(self, job: Job) -> None:
        if len(job.get("jid", "")) < 8:
            raise ValueError("jobs must have a reasonable jid parameter")
        if not job.get("jobtype"):
            raise ValueError("jobs must have a jobtype parameter")
        if not isinstance(job.get("args"), list):
            raise ValueError("jobs must have an args parameter")
        if job.get("reserve_for", 0) > 86_400:
            raise ValueError("jobs cannot be reserved for more than one day")
        # as Go writes it: these fields in front of the others, and no unknown ones
        known = ["retry", "failure", "custom", "jid", "queue", "jobtype", "created_at", "enqueued_at", "at", "args"]
        job = {"retry": 25, "queue": "default", "created_at": _now()} | job
        job = {key: job[key] for key in [*known, "reserve_for", "backtrace"] if key in job}
        if job.get("at"):
            self.scheduled.append(job)
        else:
            self._enqueue(job)

    def _enqueue(self, job: Job) -> None:
        args = job.pop("args")
        self.queues[job["queue"]].append(job | {"enqueued_at": _now(), "args": args})
        self._pushed.set()

    def _push_one(self, text: str) -> str:
        self._push(json.loads(text))
        return "+OK"

    def _push_many(self, text: str) -> dict[str, str]:
        refused: dict[str, str] = {}
        for job in json.loads(text):
            try:
                self._push(job)
            except ValueError as error:
                refused[job.get("jid", "")] = str(error)
        return refused

    def _ack(self, text: str) -> str:
        self.working.pop(json.loads(text)["jid"], None)
        return "+OK"

    def _fail_one(self, text: str) -> str:
        said = json.loads(text)
        if said["jid"] not in self.working:
            raise ValueError(f"Job not found {said['jid']}")
        self._fail(said["jid"], said["errtype"][:100], said["message"][:1000], said.get("backtrace", [])[:50])
        return "+OK"

    def _fail(self, jid: str, errtype: str, message: str, backtrace: list[str]) -> None:
        job = self.working.pop(jid)
        count = job["failure"]["retry_count"] + 1 if "failure" in job else 0
        job["failure"] = {"retry_count": count, "errtype": errtype, "message": message, "backtrace": backtrace}
        args = job.pop("args")
        job = {"failure": job.pop("failure"), **job, "args": args}
        if job["retry"] != 0:
            (self.retries if count < job["retry"] else self.dead).append(job)

    def _beat(self, text: str) -> str | dict[str, str]:
        said = json.loads(text)
        if said["wid"] not in self.workers:
            raise ValueError(f"unknown worker {said['wid']}")
        state = self.workers[said["wid"]]
        return {"state": state} if state else "+OK"

    def _info(self, _: str) -> dict[str, Any]:
        sizes = {name: len(jobs) for name, jobs in self.queues.items() if jobs}
        sets = {name: len(getattr(self, name)) for name in ("retries", "dead", "scheduled", "working")}
        return {"faktory": {"queues": sizes, "sets": sets}, "server": {"faktory_version": "1.10.0"}}

    def _mutate(self, text: str) -> str:
        if " " in text:
            raise ValueError("invalid format")
        said = json.loads(text)
        found: list[Job] = getattr(self, said["target"])
        wanted = said.get("filter") or {}

        def matches(job: Job) -> bool:
            stored = json.dumps(job, separators=(",", ":"))
            if wanted.get("jids"):
                return job["jid"] in wanted["jids"]
            if wanted.get("regexp"):
                return fnmatch.fnmatchcase(stored, wanted["regexp"])
            return "jobtype" not in wanted or job["jobtype"] == wanted["jobtype"]

        taken = [job for job in found if matches(job)]
        setattr(self, said["target"], [job for job in found if job not in taken])
        if said["cmd"] == "kill":
            self.dead.extend(taken)
        elif said["cmd"] == "requeue":
            for job in taken:
                self._enqueue(job)
        return "+OK"

    def _queue(self, text: str) -> str:
        verb, *names = text.split(" ")
        for name in names:
            if verb == "PAUSE":
                self.paused.add(name)
            elif verb == "RESUME":
                self.paused.discard(name)
            elif verb == "REMOVE":
                self.queues.pop(name, None)
        return "+OK"

    def _nothing(self, _: str) -> None:
        return None


_HANDLERS: dict[str, Callable[[FakeFaktory, str], Any]] = {
    "PUSH": FakeFaktory._push_one,
    "PUSHB": FakeFaktory._push_many,
    "FETCH": FakeFaktory._nothing,
    "ACK": FakeFaktory._ack,
    "FAIL": FakeFaktory._fail_one,
    "BEAT": FakeFaktory._beat,
    "INFO": FakeFaktory._info,
    "MUTATE": FakeFaktory._mutate,
    "QUEUE": FakeFaktory._queue,
}


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _encoded(found: Any) -> bytes:
    if found is None:
        return b"$-1\r\n"
    if isinstance(found, str):
        return found.encode() + b"\r\n"
    data = json.dumps(found, separators=(",", ":")).encode()
    return b"$%d\r\n%s\r\n" % (len(data), data)
