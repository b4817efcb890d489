"""What the steps wrote into their outcome files, read back from the containers."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from consumer.executors.docker.archive import end_of_file
from consumer.executors.docker.container import Step
from consumer.executors.docker.engine import Engine, EngineError
from consumer.outcome_file import OutcomeFile, output_in, parse
from enqueue.record import Tally

log = logging.getLogger(__name__)

File = tuple[str, bool]
"""The end of a file, and whether something stood before it."""
Insist = Callable[[Callable[[], Awaitable[File]]], Awaitable[File]]
"""Calls for as long as the engine doesn't answer."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the files say, the main step's over the init step's; `written`: None if a step doesn't tell."""

    file: OutcomeFile = field(default_factory=OutcomeFile)
    written: Tally | None = None


async def read_told(engine: Engine, steps: Sequence[Step], insist: Insist) -> Told:
    """Read the files of these steps, which have ended; one that isn't there says nothing."""
    found: dict[str, str] = {}
    problems: list[str] = []
    progress, written = None, Tally() if steps else None
    for step in steps:
        text, cut = await _file(engine, step, insist)
        text, counted = output_in(text)
        if counted is None or written is None:
            written = None
        else:
            written = Tally(lines=written.lines + counted.lines, bytes=written.bytes + counted.bytes)
        told = parse(text, cut=cut)
        found |= dict(told.variables)
        problems += told.problems
        progress = told.progress or progress
    return Told(OutcomeFile(tuple(found.items()), tuple(problems), progress), written)


async def _file(engine: Engine, step: Step, insist: Insist) -> File:
    async def read() -> File:
        async with engine.archive(step.name, step.outcome) as chunks:
            data, cut = await end_of_file(chunks)
            return data.decode("utf-8", "replace"), cut

    try:
        return await insist(read)
    except EngineError as error:
        if not error.gone:
            log.warning("the outcome file of %s can't be read: %s", step.name, error)
        return "", False
