"""The invariants over what the witnesses of `support.witnesses` see, judged event by event: nothing is kept of them.

A `Ledger` stands in for `History.events`. What a witness missed (Redis' MONITOR ends when Redis is killed) is never
held against anybody: then only what was claimed since is judged by I4 and I8. How much is judged is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from support.history import FINAL, Event, History, outcome_in
from support.witnesses import read_monitor

MOST_WRONGS = 200


@dataclass(slots=True)
class Seen:
    """What is known of a job. `epoch`: of MONITOR, in which it was last claimed before our eyes."""

    epoch: int = -1
    final: tuple[Any, ...] | None = None
    ended: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    pods: dict[int, str] = field(default_factory=dict)
    """By attempt, the uid of its first pod."""
    stored: bool = False
    """An attempt's outcome stands in its Record."""
    told: float | None = None
    doubt: float | None = None
    """When the queue was told before an outcome was seen to be stored."""


class Ledger(list[Event]):
    """Takes events and keeps none. `slots`: of each consumer; `apart`: the queue is told by another server."""

    def __init__(self, slots: int, *, apart: bool = False) -> None:
        super().__init__()
        self._slots, self._apart = slots, apart
        self._jobs: dict[str, Seen] = {}
        self._epoch = 0
        self._held: dict[str, str] = {}
        self._holders: Counter[str] = Counter()
        self._doubled: list[tuple[str, int]] = []
        self._wrong: list[str] = []
        self.counts: Counter[str] = Counter()
        self.history = History(events=self)

    def append(self, event: Event) -> None:
        """Judge it."""
        self.counts[event.what.name] += 1
        if event.job:
            getattr(self, f"_{event.what.name.lower()}", _nothing)(event, self._jobs.setdefault(event.job, Seen()))

    def __iadd__(self, events: Iterable[Event]) -> Ledger:  # type: ignore[misc,override]
        for event in events:
            self.append(event)
        return self

    def resumed(self) -> None:
        """Events may have been missed."""
        self._epoch += 1
        self._held.clear()
        self._holders.clear()

    def wrongs(self, accepted: set[str], twice: set[str], outside: set[str]) -> Iterator[str]:
        """A sentence for each broken invariant.

        `twice`: jobs whose pod never starts, which may therefore come again; `outside`: of which others tell the queue.
        """
        yield from self._wrong
        for job, attempt in self._doubled:
            if job in accepted - twice:
                yield f"I2: {job} attempt {attempt} had two pods"
        for job, seen in self._jobs.items():
            if seen.doubt is not None and job in accepted - outside:
                yield f"I4: {job} was settled before its outcome was stored"

    def _say(self, text: str) -> None:
        if len(self._wrong) < MOST_WRONGS:
            self._wrong.append(text)

    def _created(self, event: Event, seen: Seen) -> None:
        if seen.pods.setdefault(event.attempt, event.uid) != event.uid:
            self._doubled.append((event.job, event.attempt))

    def _record(self, event: Event, seen: Seen) -> None:
        record = event.value
        told = (record["status"], *outcome_in(record))
        if seen.final is not None and told != seen.final:
            self._say(f"I3: {event.job} was {seen.final} and became {told}")
        if record["status"] in FINAL:
            seen.final = told
        for attempt in record.get("attempts") or ():
            end = outcome_in(attempt)
            if seen.ended.setdefault(attempt["attempt"], end) != end:
                self._say(
                    f"I3: {event.job} attempt {attempt['attempt']} was {seen.ended[attempt['attempt']]}, is {end}"
                )
        seen.stored = bool(record.get("attempts"))
        if seen.stored and seen.doubt is not None and event.at <= seen.doubt:  # two witnesses, two orders
            seen.doubt = None
        if self._apart and record["status"] not in ("starting", "running"):
            self._free(event.job)

    def _told(self, event: Event, seen: Seen) -> None:
        if seen.epoch != self._epoch:
            return
        self.counts["ends judged"] += 1
        seen.told = event.at
        if not seen.stored:
            seen.doubt = event.at

    def _log(self, event: Event, seen: Seen) -> None:
        if seen.told is not None and event.at > seen.told:
            self._say(f"I4: {event.job} was settled before its log was stored, {event.at - seen.told:.3f} s later")

    _log_end = _log

    def _claimed(self, event: Event, seen: Seen) -> None:
        seen.epoch, seen.told = self._epoch, None
        self._free(event.name)
        self._held[event.name] = event.value
        self._holders[event.value] += 1
        self.counts["most claims"] = max(self.counts["most claims"], self._holders[event.value])
        if self._holders[event.value] > self._slots:
            self._say(f"I8: {event.value} held {self._holders[event.value]} claims, and has {self._slots} slots")

    def _released(self, event: Event, seen: Seen) -> None:
        if not self._apart:
            self._free(event.name)

    def _free(self, name: str) -> None:
        if holder := self._held.pop(name, None):
            self._holders[holder] -= 1


def _nothing(event: Event, seen: Seen) -> None:
    pass


async def monitor(url: str, ledger: Ledger) -> None:
    """Everything that happens in this database of a Redis on a Unix socket, until cancelled; Redis may be killed."""
    parts = urlsplit(url)
    database = int(parse_qs(parts.query).get("db", ["0"])[0])
    while True:
        began = time.monotonic()
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_unix_connection(parts.path, limit=2**26)
            try:
                writer.write(b"MONITOR\r\n")
                if await reader.readline() == b"+OK\r\n":
                    ledger.resumed()
                    await read_monitor(reader, database, ledger.history)
            finally:
                writer.close()
        await asyncio.sleep(0.01 if time.monotonic() - began > 1 else 0.1)
