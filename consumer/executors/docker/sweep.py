"""Nothing of ours outlives its job: deletes containers whose jobs have ended and that nobody else will delete.

Only containers that carry the identity of our own store of Records are looked at; it says what became of their jobs,
and nothing is touched while it can't. Several consumers may sweep one engine: a second delete finds nothing. A job
whose consumers are all gone is ended when its own deadline has passed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from consumer.executors import names
from consumer.executors.docker.container import DEADLINE, STEP
from consumer.executors.docker.engine import Engine, EngineError
from consumer.model import AttemptKey, Standing
from consumer.ports import Records
from enqueue.errors import QueueUnavailable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """A container of ours, as a list shows it."""

    id: str
    name: str
    key: AttemptKey
    main: bool
    running: bool
    deadline: float | None


def found_in(listed: list[dict[str, Any]], source: str) -> list[Found]:
    """Those of this store's jobs; the init steps' before the main ones', whose volumes they use."""
    found = []
    for item in listed:
        labels = item.get("Labels") or {}
        attempt, deadline = labels.get(names.ATTEMPT, ""), labels.get(DEADLINE, "")
        if labels.get(names.SOURCE) != source or not attempt.isdecimal() or not item.get("Names"):
            continue
        found.append(
            Found(
                id=str(item["Id"]),
                name=str(item["Names"][0]).lstrip("/"),
                key=AttemptKey(labels.get(names.JOB_ID, ""), labels.get(names.QUEUE, ""), int(attempt)),
                main=labels.get(STEP) == "main",
                running=item.get("State") == "running",
                deadline=float(deadline) if deadline.isdecimal() else None,
            )
        )
    return sorted(found, key=lambda one: one.main)


class Sweeper:
    """Sweeps every `interval` seconds what two looks in a row have found without a job that goes on."""

    def __init__(self, engine: Engine, label: str, interval: float, held: Callable[[str], bool]) -> None:
        self._engine, self._label, self._interval, self._held = engine, label, interval, held
        self._suspects: set[str] = set()

    async def run(self, records: Records) -> None:
        """Goes on until cancelled."""
        while records.source:
            try:
                await self.sweep(records)
            except (EngineError, QueueUnavailable) as error:
                log.info("nothing is swept now: %s", error)
            except Exception:
                log.exception("sweeping failed; it is tried again")
            await asyncio.sleep(self._interval)

    async def sweep(self, records: Records) -> None:
        """One round. Raises EngineError, QueueUnavailable."""
        listed = found_in(await self._engine.list(self._label, f"{names.SOURCE}={records.source}"), records.source)
        found = [one for one in listed if not self._held(one.name)]
        standings = await records.standing([one.key for one in found]) if found else ()
        suspects = set()
        for one, standing in zip(found, standings, strict=True):
            if standing is Standing.HELD:
                if one.running and one.deadline is not None and time.time() > one.deadline and not self._held(one.name):
                    log.warning("the container %s is ended: its job's deadline has passed", one.name)
                    await self._engine.kill(one.id, "SIGKILL")
            elif one.id not in self._suspects:
                suspects.add(one.id)
            elif not self._held(one.name):
                if one.running:
                    await self._engine.kill(one.id, "SIGKILL")
                await self._engine.delete(one.id)
                log.info("swept the container %s, left of the job %s", one.name, one.key.id)
        self._suspects = suspects
