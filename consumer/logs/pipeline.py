"""The way of one job's log: read at full speed, processed in blocks of whole lines, given to the sinks.

source -> Lines -> Spool (the reader's task)      the source never waits for a sink
Spool -> processors -> batch -> sinks             the first line at once, later ones after `interval` at most
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import structlog

from consumer.errors import ClaimLost
from consumer.kinds import is_editing, is_storing
from consumer.logs.lines import Lines
from consumer.logs.marks import Stamps, begin_with, by_marks, cut_at
from consumer.logs.spool import Memory, Piece, Spool
from consumer.model import Gap, LogPart, LogPosition, Marks, Times
from consumer.newlines import newlines
from consumer.ports import Processor, Sink
from enqueue.record import Tally

SPOOL = 16 * 1024 * 1024
"""Bytes of a log that may wait for its sinks; what goes beyond is dropped from the middle of the log."""

BATCH = 256 * 1024
"""A sink gets at most this many bytes at a time, and waits for no more."""

_CHUNK = 64 * 1024  # what is processed at a time: it stays in the processor's cache while every mask goes over it
_TAIL = 8 * 1024  # there are thousands of jobs
_log = structlog.get_logger("longshore.logs")


class Pipeline:
    """Carries one log from its source to its sinks. To be run once.

    `interval`, `patience`: seconds. `former`: what has been stored before; it is read again as far as it is still
    there, for the processors to see, and not given to the sinks. `memory`: what all logs together may hold. A sink
    that fails is reported once and left out; one that still keeps us waiting `patience` seconds after the source's
    end as well.
    """

    def __init__(
        self,
        processors: Sequence[Processor],
        sinks: Sequence[Sink],
        *,
        interval: float = 0.5,
        tail_lines: int = 20,
        former: LogPosition | None = None,
        spool: int = SPOOL,
        memory: Memory | None = None,
        patience: float = 30.0,
        log: Any = _log,
    ) -> None:
        self._processors = tuple(processors)
        self._sinks = list(sinks)
        self._interval = interval
        self._tail_lines = tail_lines
        self._patience = patience
        self._log = log
        self._memory = memory or Memory(spool)
        self._spool = Spool(spool, memory)
        self.room = self._spool.room  # for a source that can wait
        self._pending: list[bytes] = []
        self._size = 0  # bytes in _pending
        self._due: float | None = None  # when _pending must go out, on the loop's clock
        self._deadline: float | None = None  # when sinks must be done, once the source has ended
        self._limit: asyncio.Timeout | None = None  # of the write that goes on
        self._hurried = False
        former = former or LogPosition()
        self._lines = former.lines - former.open
        self._bytes = former.bytes
        self._midline = former.open
        self._gaps: list[dict[str, Any]] = [dict(gap) for gap in former.gaps]
        self._after = former.place.at if former.place else ""
        self._old = bool(self._after)  # what comes has been stored before
        self._skip = former.bytes - (former.place.bytes if former.place else 0)  # bytes after that, as well
        self._place = former.place
        self._read_lines = self._read_bytes = 0  # of what the source gave, from the log's beginning on
        self._tail = b""
        self._pending_lines = 0
        self._marks: list[tuple[int, int]] = []  # of _pending
        self._now: int | None = None  # when the last line was written, if the source tells
        self._step = ""

    @property
    def position(self) -> LogPosition:
        """Lines and bytes that have passed, what was dropped or skipped included, and the gaps."""
        return LogPosition(
            lines=self._lines + self._midline,
            bytes=self._bytes,
            gaps=tuple(self._gaps),
            open=self._midline,
            read=self._read_so_far,
        )

    @property
    def _read_so_far(self) -> Tally:
        return Tally(lines=self._read_lines, bytes=self._read_bytes)

    @property
    def moved(self) -> int:
        """Grows for as long as the log comes or goes on to the sinks."""
        return self._read_bytes + self._bytes

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines, processed; of a very long line only its end."""
        lines = self._tail.removesuffix(b"\n").rsplit(b"\n", self._tail_lines)[-self._tail_lines :]
        return tuple(line.decode("utf-8", "replace") for line in lines) if self._tail and self._tail_lines else ()

    async def run(self, source: AsyncIterator[LogPart]) -> LogPosition:
        """Carry the log to its end. An error of the source, or ours, ends it with a gap.

        Cancelled, it lets go at once: what waits isn't shipped, and the sinks aren't told of an end.
        """
        reader = asyncio.create_task(self._read(source))
        try:
            await self._ship()
            if (failure := await reader) is not None:
                self._gap(Gap("source_error", message=failure))
        except Exception as error:  # a processor's; nothing that it hasn't seen may go out
            self._log.exception("log processor failed")
            self._gap(Gap("processor_error", message=type(error).__name__))
        finally:
            if not reader.done():
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)
            self._spool.clear()
        if len(self._sinks) == 1:
            await self._end(self._sinks[0])
        else:
            await asyncio.gather(*map(self._end, self._sinks))
        return self.position

    async def _read(self, source: AsyncIterator[LogPart]) -> str | None:
        """The source into the spool; what ended it, if not its end."""
        lines = Lines()
        failure: str | None = None
        old = self._old
        stamps = Stamps()
        try:
            async for part in source:
                if isinstance(part, bytes):
                    count = stamps.lines_of(part)
                    self._read_lines += count
                    self._read_bytes += len(part) - (part.count(b"\r") if b"\r" in part else 0)
                    if block := lines.feed(part):
                        self._spool.put(block, count, stamps.take(block, count), stamps.step)
                    continue
                if isinstance(part, Times):
                    if part.step != stamps.step and (rest := lines.finish()):
                        self._spool.put(rest, 0, stamps.take(rest, 0), stamps.step)
                    stamps.arrive(part)
                elif isinstance(part, Gap):
                    rest = lines.finish()
                    self._spool.put(rest, 0, stamps.take(rest, 0), stamps.step)
                    if old:
                        self._spool.tell(None)
                    self._spool.tell(part)
                    old = False
                elif not lines.holds:
                    if old and part.at == self._after and self._place is not None and self._place.read is not None:
                        # a source may have less to show again than a former consumer has read
                        self._read_lines, self._read_bytes = self._place.read.lines, self._place.read.bytes
                    self._spool.mark(replace(part, read=self._read_so_far))
                    if old and part.at == self._after:
                        self._spool.tell(None)
                        old = False
        except Exception as error:
            failure = type(error).__name__
            self._log.warning("log source failed", error=failure, exc_info=True)
        finally:
            if rest := lines.finish():
                self._spool.put(rest, 0, stamps.take(rest, 0), stamps.step)
            self._deadline = asyncio.get_running_loop().time() + self._patience
            if self._limit is not None:
                self._limit.reschedule(self._deadline)
            self._spool.close()
        return failure

    async def _ship(self) -> None:
        """The spool through the processors to the sinks."""
        loop = asyncio.get_running_loop()
        while True:
            piece = self._spool.take(_CHUNK)
            if piece is None:
                if self._spool.closed:
                    break
                await self._wait(loop)
            else:
                await self._take(piece)
                await asyncio.sleep(0)  # others' turn: a job that floods us must not hold up the heartbeat
            if self._size > BATCH - _CHUNK or (self._size and (not self._hurried or loop.time() >= (self._due or 0))):
                await self._flush()
        for index, processor in enumerate(self._processors):
            self._feed(processor.finish(), index + 1)
        await self._flush(everything=True)

    async def _take(self, piece: Piece) -> None:
        if piece.resumed:
            self._old = False
        if piece.gap is not None:
            await self._note(piece.gap)
        if piece.data:
            if piece.step != self._step:
                await self._flush(everything=True)
                self._step = piece.step
            if len(piece.marks) > 1 and any(is_editing(p) and p.edits(piece.data) for p in self._processors):
                for lines, mark, part in by_marks(piece.data, piece.lines, piece.marks):
                    self._feed(part, 0, lines, ((0, mark),))
            else:
                self._feed(piece.data, 0, piece.lines, piece.marks)
        if piece.place and not self._old and not any(processor.holds for processor in self._processors):
            self._place = replace(piece.place, bytes=max(self._bytes + self._size - self._skip, 0))

    async def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._due is None:
            await self._spool.wait()
            return
        try:
            async with asyncio.timeout_at(self._due):
                await self._spool.wait()
        except TimeoutError:
            pass

    def _feed(self, block: bytes, first: int, lines: int | None = None, marks: Marks = ()) -> None:
        """A block through the processors, from the `first` on; `lines`: how many newlines it has, if that is known."""
        for processor in self._processors[first:]:
            if not block:
                return
            given, block = block, processor.feed(block)
            if block is not given:
                lines = None
        if lines is None:
            lines = newlines(block)
            # of marks that lie beyond, lines were taken out, or are held back: they come with the next block
            marks = tuple((line, at) for line, at in marks if line <= lines)
        self._collect(block, lines, marks)

    def _collect(self, block: bytes, lines: int, marks: Marks = ()) -> None:
        if self._old:
            self._tail = (self._tail + block)[-_TAIL:]
        elif block:
            self._marks += [(self._pending_lines + line, at) for line, at in marks] if self._pending_lines else marks
            self._pending.append(block)
            self._pending_lines += lines
            self._size += len(block)
            if self._due is None:
                self._due = asyncio.get_running_loop().time() + self._interval

    async def _note(self, gap: Gap) -> None:
        """Something is missing here: end the line before it, if it was cut, and write the gap down."""
        self._skip = 0  # what was to be skipped isn't there any more
        if self._midline or (self._pending and not self._pending[-1].endswith(b"\n")):
            self._feed(b"\n", 0)
        await self._flush(everything=True)
        self._gap(gap)
        self._log.warning("log incomplete", reason=gap.reason, lines=gap.lines, bytes=gap.bytes)

    def _gap(self, gap: Gap) -> None:
        self._gaps.append(gap.after(self._lines + self._midline))
        self._lines += gap.lines or 0
        self._bytes += gap.bytes or 0
        for sink in self._sinks:
            if is_storing(sink):
                sink.missed(gap)

    async def _flush(self, *, everything: bool = False) -> None:
        """Give the whole lines that are pending to the sinks, in parts of at most BATCH bytes."""
        if not self._size:
            return
        data = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
        lines, marks = self._pending_lines, self._marks
        self._pending, self._size, self._due, self._pending_lines, self._marks = [], 0, None, 0, []
        if not everything and self._size_of_rest(data):
            end = data.rfind(b"\n") + 1
            begun = marks.pop()[1] if marks and marks[-1][0] == lines else None
            self._collect(data[end:], 0, () if begun is None else ((0, begun),))
            data = data[:end]
        at = 0
        while at < len(data):
            end = len(data)
            if end - at > BATCH:
                end = data.rfind(b"\n", at, at + BATCH) + 1 or at + BATCH
            part = data[at:end] if at or end < len(data) else data
            count = lines if end == len(data) else newlines(part)
            here, marks = cut_at(marks, count) if end < len(data) else (marks, [])
            await self._emit(part, count, here)
            lines -= count
            at = end

    @staticmethod
    def _size_of_rest(data: bytes) -> int:
        """Bytes of an unfinished last line that can wait for the rest of it (a very long line can't)."""
        rest = len(data) - data.rfind(b"\n") - 1
        return rest if rest < BATCH else 0

    async def _emit(self, block: bytes, lines: int, marks: Sequence[tuple[int, int]]) -> None:
        self._tail = block[-_TAIL:] if len(block) >= _TAIL else (self._tail + block)[-_TAIL:]
        if self._skip:
            block, self._skip = block[self._skip :], max(self._skip - len(block), 0)
            stored, lines = lines, newlines(block)
            marks = [(max(line - stored + lines, 0), mark) for line, mark in marks]
        if not block:
            return
        times = begin_with(self._now, marks)
        self._now = times[-1][1] if times else None
        self._lines += lines
        self._bytes += len(block)
        self._memory.lines += lines
        self._memory.bytes += len(block)
        self._midline = not block.endswith(b"\n")
        self._hurried = True
        for sink in tuple(self._sinks):
            if times and is_storing(sink):
                sink.timed(times, self._step)
            try:
                async with asyncio.timeout_at(self._deadline) as self._limit:
                    await sink.write(block, self._place)
            except Exception as error:
                self._fail(sink, error)
            finally:
                self._limit = None

    async def _end(self, sink: Sink) -> None:
        try:
            async with asyncio.timeout(self._patience + 5):
                await sink.finish()
        except Exception as error:
            self._fail(sink, error)

    def _fail(self, sink: Sink, error: Exception) -> None:
        if sink in self._sinks:
            self._sinks.remove(sink)
        expected = isinstance(error, ClaimLost)  # another consumer goes on with it
        trace = None if expected else error
        self._log.warning("log sink failed", sink=type(sink).__name__, error=repr(error), exc_info=trace)


def join(read: LogPosition, stored: LogPosition) -> LogPosition:
    """What the Record says of a log: all that was `read`, what a sink `stored` of it, and the gaps of both."""
    unseen = [gap for gap in read.gaps if gap not in stored.gaps]
    lines = read.lines - stored.lines - sum(gap.get("lines", 0) for gap in unseen)
    size = read.bytes - stored.bytes - sum(gap.get("bytes", 0) for gap in unseen)
    gaps = [*stored.gaps, *unseen]
    if size > 0:
        gaps.append({"reason": "not_stored", "lines": max(lines, 0), "bytes": size, "after_line": stored.lines})
    gaps.sort(key=lambda gap: int(gap["after_line"]))
    return replace(stored, lines=read.lines, bytes=read.bytes, gaps=tuple(gaps), open=read.open, read=read.read)
