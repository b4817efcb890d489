"""Consumers that are killed, replaced and put to sleep for as long as wanted, and what memory each of them takes."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from support.adversary import SECRET, Consumers
from support.consuming import until

STOP_LIMIT = 90.0
"""Seconds that a consumer may take for its end after TERM; the servers may be away at that moment."""
GROWTH = 10.0
"""MB by which the last third may be above the first; docs/performance.md says why."""
JUDGED = 300.0
"""Seconds that a consumer must have lived for its growth to tell anything."""


@dataclass
class Lifetime:
    """One process: resident MB and open files by the seconds since its start."""

    name: str
    pid: int
    began: float
    samples: list[tuple[float, float, int]] = field(default_factory=list)
    end: str = "term"

    def sample(self) -> None:
        """Look once, if it is there."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
            files = sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())
        except OSError:
            return
        row = next((row for row in status.splitlines() if row.startswith("VmRSS")), None)
        if row:
            self.samples.append((time.monotonic() - self.began, int(row.split()[1]) / 1024, files))

    def thirds(self) -> tuple[float, float, int, int]:
        """Medians of the first and the last third: MB, and open files."""
        part = max(1, len(self.samples) // 3)
        first, last = self.samples[:part], self.samples[-part:]
        mb = [statistics.median(sample[1] for sample in side) for side in (first, last)]
        files = [int(statistics.median(sample[2] for sample in side)) for side in (first, last)]
        return mb[0], mb[1], files[0], files[1]

    @property
    def seconds(self) -> float:
        """How long it lived, as far as it was seen."""
        return self.samples[-1][0] if self.samples else 0.0

    @property
    def peak(self) -> float:
        """The most memory seen."""
        return max((sample[1] for sample in self.samples), default=0.0)


class Replicas(Consumers):
    """The last of them is only ever put to sleep, so that one process sees all that the run brings."""

    lifetimes: list[Lifetime]
    wrongs: list[str]
    hits: Counter[str]

    async def __aenter__(self) -> Replicas:
        self.lifetimes, self.wrongs, self.hits = [], [], Counter()
        await super().__aenter__()
        return self

    async def _start(self) -> asyncio.subprocess.Process:
        process = await super()._start()
        self.lifetimes.append(Lifetime(f"{self._prefix}-{self._started}", process.pid, time.monotonic()))
        return process

    async def disturb_until(self, rng: random.Random, ends: float, pause: float, tell: Callable[[str], None]) -> None:
        """Until that moment of the monotonic clock; afterwards all run again. `pause`: seconds, in the mean."""
        places, asleep = list(range(len(self.slots))), set[asyncio.Task[None]]()
        stopped: set[int] = set()
        while True:
            await asyncio.sleep(rng.uniform(0.3, 1.7) * pause)
            what = rng.choice(["kill", "kill", "term", "stop", "stop", "rolling"])
            place, away = rng.choice(places[:-1] if what != "stop" else places), rng.uniform(0, 5)
            seconds = rng.uniform(1, 25)
            if time.monotonic() > ends:
                break
            if place in stopped or (what == "rolling" and stopped):
                continue
            if (code := self.slots[place].returncode) is not None:
                self.wrongs.append(f"{self._lifetime(self.slots[place].pid).name} ended by itself, with code {code}")
                self.slots[place] = await self._start()
                continue
            self.hits[what] += 1
            tell(f"{what} {self._prefix} {place}")
            if what == "stop":
                stopped.add(place)
                self.slots[place].send_signal(signal.SIGSTOP)
                asleep.add(asyncio.create_task(self._wake(self.slots[place], seconds, place, stopped)))
                continue
            for each in places[:-1] if what == "rolling" else [place]:
                await self._replace(each, signal.SIGKILL if what == "kill" else signal.SIGTERM, away)
                if what == "rolling" or rng.random() < 0.7:  # else it may be hit again while it starts
                    await self._at_work(self.slots[each])
        if asleep:
            await asyncio.wait(asleep)

    async def _replace(self, place: int, number: signal.Signals, away: float) -> None:
        process = self.slots[place]
        self._lifetime(process.pid).end = "kill" if number is signal.SIGKILL else "term"
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself; its code tells
            process.send_signal(number)
        await self._ended(process)
        await asyncio.sleep(away)
        self.slots[place] = await self._start()

    async def _ended(self, process: asyncio.subprocess.Process) -> None:
        lifetime = self._lifetime(process.pid)
        try:
            code = await asyncio.wait_for(process.wait(), STOP_LIMIT)
        except TimeoutError:
            self.wrongs.append(f"{lifetime.name} hasn't ended {STOP_LIMIT:g} s after TERM")
            process.kill()
            await process.wait()
            return
        wanted = {-signal.SIGKILL} if lifetime.end == "kill" else {0}
        if code == -signal.SIGTERM and not (self._folder / f"{lifetime.name}.log").stat().st_size:
            return  # it had no time yet to hear of signals
        if code not in wanted:
            self.wrongs.append(f"{lifetime.name} ended with code {code}, not {wanted}")

    async def _at_work(self, process: asyncio.subprocess.Process) -> None:
        """It has started, or had the time to: a server may be away."""
        log = self._folder / f"{self._lifetime(process.pid).name}.log"
        with contextlib.suppress(TimeoutError):
            await until(lambda: process.returncode is not None or b"consumer_started" in log.read_bytes(), STOP_LIMIT)

    def _lifetime(self, pid: int) -> Lifetime:
        return next(each for each in reversed(self.lifetimes) if each.pid == pid)

    def sample(self) -> None:
        """Look at the memory of each that lives."""
        for process in self.slots:
            if process.returncode is None:
                self._lifetime(process.pid).sample()

    def said(self) -> Iterator[str]:
        """What they must not have said."""
        for path in sorted(self._folder.glob(f"{self._prefix}-*.log")):
            with path.open() as lines:
                for line in lines:
                    if SECRET in line:
                        yield f"I7: {path.name} tells the secret"
                    if "Traceback" in line:
                        yield f"{path.name} has a stack trace: {line[:2000]}"

    def grown(self, slots: int) -> Iterator[str]:
        """Those whose memory, or number of open files, isn't flat: each slot may keep a connection to Redis."""
        for lifetime in self.lifetimes:
            first, last, files, more = lifetime.thirds() if lifetime.seconds > JUDGED else (0, 0, 0, 0)
            if last - first > GROWTH:
                yield f"{lifetime.name} grew from {first:.1f} to {last:.1f} MB in {lifetime.seconds:.0f} s"
            if more - files > slots + 20:
                yield f"{lifetime.name} had {files} and then {more} files open"
