"""The invariants I1 to I10 of support/history.py, looked at as each event comes, and all of them again at the end.

Beside those: H1 a job is held once, R1 what runs of a job runs once, R2 a job runs as often as its retries allow,
T1 the outcome is what really happened, B1 no error of our own in the log.
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import Any

from support.history import FINAL, Event, History, What, outcome_in, violations


class Violation(Exception):
    """An invariant is broken: its name, and how."""


class Judge:
    """Told of each event, in order. `note` raises Violation."""

    def __init__(self, history: History) -> None:
        self.history = history
        self._held: dict[str, Event] = {}
        self._final: dict[str, tuple[Any, ...]] = {}
        self._ended: dict[tuple[str, int], tuple[Any, ...]] = {}
        self._last: dict[str, dict[str, Any]] = {}
        self._told: set[str] = set()
        self._pods: dict[tuple[str, int], Event] = {}
        self._gone: set[str] = set()
        """Uids of pods that are deleted."""
        self._seen: set[tuple[str, int]] = set()
        """Attempts that were told to run, or to have ended."""
        self.told_running: set[tuple[str, int]] = set()
        self._requests: deque[float] = deque()
        self._looks = {
            What.CLAIMED: self._claimed,
            What.RELEASED: lambda event: self._held.pop(event.name, None),
            What.RECORD: self._recorded,
            What.TOLD: self._settled,
            What.LOG: self._logged,
            What.LOG_END: self._logged,
            What.CREATED: self._begun,
            What.DELETED: lambda event: self._gone.add(event.uid),
            What.REQUEST: self._asked,
        }

    def note(self, event: Event) -> None:
        """Something has happened. Raises Violation."""
        self.history.events.append(event)
        if (look := self._looks.get(event.what)) is not None:
            look(event)

    def _claimed(self, event: Event) -> None:
        self._told.discard(event.job)
        if others := [held for held in self._held.values() if held.job == event.job]:
            raise Violation(f"H1: {event.job} is held by {others[0].value} and by {event.value}")
        self._held[event.name] = event
        count = sum(held.value == event.value for held in self._held.values())
        if count > self.history.slots:
            raise Violation(f"I8: {event.value} holds {count} claims, and has {self.history.slots} slots")

    def _recorded(self, event: Event) -> None:
        record, job = event.value, event.job
        self._last[job] = record
        told = (record["status"], *outcome_in(record))
        if self._final.get(job, told) != told:
            raise Violation(f"I3: {job} was {self._final[job]} and became {told}")
        if record["status"] in FINAL:
            self._final[job] = told
        if record["status"] == "running":
            self._seen.add((job, record["attempt"]))
            self.told_running.add((job, record["attempt"]))
        for attempt in record.get("attempts") or ():
            said, key = outcome_in(attempt), (job, attempt["attempt"])
            self._seen.add(key)
            if self._ended.setdefault(key, said) != said:
                raise Violation(f"I3: {job} attempt {key[1]} was {self._ended[key]} and became {said}")

    def _settled(self, event: Event) -> None:
        if not self._last.get(event.job, {}).get("attempts"):
            raise Violation(f"I4: {event.job} was settled before its outcome was stored")
        self._told.add(event.job)

    def _logged(self, event: Event) -> None:
        if event.job in self._told:
            raise Violation(f"I4: {event.job} was settled before its log was stored")

    def _begun(self, event: Event) -> None:
        key = (event.job, event.attempt)
        before = self._pods.get(key)
        # A pod that somebody deletes before anybody has told that it runs leaves no trace: nobody can know of it.
        if before is not None and not (before.uid in self._gone and key not in self._seen):
            raise Violation(f"I2: a second pod of {event.job} attempt {event.attempt} runs")
        self._pods[key] = event

    def _asked(self, event: Event) -> None:
        times = self._requests
        times.append(event.at)
        while times[0] < event.at - 1:
            times.popleft()
        if len(times) > self.history.rate:
            raise Violation(f"I9: {len(times)} requests within a second")

    def finish(self) -> None:
        """The whole history at once, by the checker that judges real servers too. Raises Violation."""
        unknown = {pod.uid for pod in self._pods.values()}
        events = self.history.events
        self.history.events = [one for one in events if one.what is not What.CREATED or one.uid in unknown]
        if broken := violations(self.history):
            raise Violation("; ".join(broken))


def counted(events: list[Event]) -> dict[str, int]:
    """How many of each kind."""
    found: dict[str, int] = defaultdict(int)
    for event in events:
        found[event.what.name] += 1
    return dict(found)
