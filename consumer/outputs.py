"""Files that a job leaves in $LONGSHORE_OUTPUTS: each is stored, or the Record says why not. Never fails a job."""

from __future__ import annotations

import asyncio
import fnmatch
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog

from consumer.kinds import is_collecting
from consumer.model import Claim, Found, OutputPart
from consumer.ports import Execution
from consumer.settings import Outputs
from consumer.storage_path import path_of, safe
from consumer.storing import Away, Broken, Refused, Target
from enqueue.record import Output

PATIENCE = 30.0
"""Seconds for which a store that is away is waited for, in all files of a job together."""
PAUSE, LONGEST_PAUSE = 0.2, 5.0
FILE_PART = 256 * 1024
log = structlog.get_logger()


class Collector:
    """Carries files to a store, in order, a part in memory at a time."""

    def __init__(self, settings: Outputs, target: Callable[[str], Target]) -> None:
        """`target`: the place of a path in the store."""
        self._settings, self._target = settings, target

    async def collect(self, claim: Claim, execution: Execution, mask: Callable[[str], str]) -> tuple[Output, ...]:
        """All that the execution has left, within bounds. Never raises but for a cancellation."""
        if claim.job is None or claim.job.outputs is None or not is_collecting(execution):
            return ()
        job = _Job(claim, self._settings, self._target, mask)
        try:
            async with asyncio.timeout(self._settings.seconds):
                await job.take(execution.outputs())
        except TimeoutError:
            job.tell("...", f"collecting took longer than {self._settings.seconds:g} s: what follows wasn't kept")
        except (Away, Refused) as error:
            job.tell("...", f"what follows wasn't kept: {error}")
        except Exception as error:  # a bug of ours, or of a library
            log.exception("outputs_not_collected", job=claim.id)
            job.tell("...", f"what follows wasn't kept: internal error ({type(error).__name__})")
        return tuple(job.kept)


class _Job:
    def __init__(
        self, claim: Claim, settings: Outputs, target: Callable[[str], Target], mask: Callable[[str], str]
    ) -> None:
        wish = claim.job.outputs if claim.job else None
        self._globs = wish.include if wish else ()
        self._most = min(wish.max_bytes or settings.max_bytes, settings.max_bytes) if wish else 0
        self._files = settings.max_files
        self._folder = path_of(settings.path, claim.queue, claim.id, claim.attempt)
        self._target, self._mask = target, mask
        self._size = 0
        self._until: float | None = None
        self.kept: list[Output] = []

    def tell(self, name: str, problem: str, size: int | None = None) -> None:
        """A file that isn't kept, and why."""
        self.kept.append(Output(name=name, size=size, problem=self._mask(problem)))

    async def take(self, parts: AsyncIterator[OutputPart]) -> None:
        """Raises Away if the store doesn't come back, Refused if the source fails for good."""
        file: _File | None = None
        try:
            async for part in parts:
                if not isinstance(part, Found):
                    if file is not None and not await self._stored(file, file.feed(part)):
                        file = None
                    continue
                if file is not None:
                    await self._stored(file, self._end(file))
                    file = None
                if len(self.kept) >= self._files:
                    self.tell("...", f"there are more than {self._files} files: what follows wasn't kept")
                    return
                file = self._begin(part)
            if file is not None:
                await self._stored(file, self._end(file))
                file = None
        finally:
            if file is not None:
                self.tell(file.name, "not kept as a whole", file.size)
                await file.abandon()

    async def _stored(self, file: _File, step: Awaitable[None]) -> bool:
        """Do a step of a file's way; False: the store never takes this file, which is told. Others may go on."""
        try:
            await step
        except (Broken, Refused) as error:
            self._size -= file.size
            self.tell(file.name, f"not kept: {error}", file.size)
            await file.abandon()
            return False
        return True

    async def _end(self, file: _File) -> None:
        self.kept.append(await file.end())

    def _begin(self, found: Found) -> _File | None:
        plain = found.name.decode("utf-8", "backslashreplace")
        name = self._mask(plain)
        if self._globs and not any(fnmatch.fnmatchcase(name, glob) for glob in self._globs):
            return None
        if found.problem is not None:
            self.tell(name, found.problem)
            return None
        if self._size + found.size > self._most:
            self.tell(name, f"not kept: all together would be more than {self._most:,} bytes", found.size)
            return None
        self._size += found.size
        path = "/".join(safe(part) for part in (found.name if name == plain else name.encode()).split(b"/"))
        if name != plain:
            path += f"~n{len(self.kept)}"  # no secret in the Record's link; no other file's path ends like that
        return _File(name, found.size, self._target(f"{self._folder}/{path}"), self._try)

    async def _try(self, action: Callable[[], Awaitable[None]]) -> None:
        pause, loop = PAUSE, asyncio.get_running_loop()
        while True:
            try:
                return await action()
            except Broken:
                raise
            except Away:
                self._until = self._until or loop.time() + PATIENCE
                if loop.time() + pause > self._until:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)


class _File:
    """One file on its way."""

    def __init__(
        self, name: str, size: int, target: Target, attempt: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]
    ) -> None:
        self.name, self.size = name, size
        self._target, self._try = target, attempt
        self._part = max(target.part, FILE_PART)
        self._hash = hashlib.sha256()
        self._waiting = bytearray()
        self._offset = self._read = 0

    async def feed(self, data: bytes) -> None:
        """Take some bytes, no more than were announced."""
        data = data[: self.size - self._read]
        self._read += len(data)
        self._hash.update(data)
        self._waiting += data
        while len(self._waiting) > self._part:
            await self._put(bytes(self._waiting[: self._part]), last=False)
            del self._waiting[: self._part]

    async def end(self) -> Output:
        """What the Record says of it."""
        if self._read < self.size:
            await self.abandon()
            problem = f"not kept: it became shorter than its {self.size:,} bytes while it was read"
            return Output(name=self.name, size=self._read, problem=problem)
        await self._put(bytes(self._waiting), last=True)
        await self._try(lambda: self._target.close(self.size))
        return Output(name=self.name, size=self.size, sha256=self._hash.hexdigest(), url=self._target.url)

    async def abandon(self) -> None:
        """It isn't kept."""
        await self._target.abandon()

    async def _put(self, data: bytes, *, last: bool) -> None:
        await self._try(lambda: self._target.put(self._offset, data, last=last))
        self._offset += len(data)
