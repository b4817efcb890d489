"""The command `longshore logs`: a log for people's eyes, for files and for programs, and how whole it is."""

from __future__ import annotations

import base64
import json
import re
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from enqueue.cli_options import JsonFlag, QueueUrl, RecordsUrl, producer_at
from enqueue.errors import LongshoreError, QueueUnavailable, UsageError
from enqueue.groups import Groups
from enqueue.terminal import shown
from enqueue.times import epoch, rfc3339

if TYPE_CHECKING:
    from enqueue.logs import LogCheck, LogLine

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def moment(text: str | None) -> float | None:
    """`90s`, `10m`, `2h`, `1d` ago, or a moment in RFC 3339: seconds since the epoch. Raises UsageError."""
    if text is None:
        return None
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text):
        return time.time() - float(match[1]) * _UNITS[match[2]]
    if (when := epoch(text)) is None:
        raise UsageError(f"--since: '{text}' is neither a time ago, such as 10m, nor one like 2026-11-21T08:00:00Z")
    return when


def logs(
    job_ids: Annotated[
        list[str], typer.Argument(metavar="JOB_ID", help="The jobs' ids, as `longshore enqueue` prints them.")
    ],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the jobs have ended.")] = False,
    since: Annotated[
        str | None, typer.Option("--since", help="Only lines since then: 10m ago, or a time in RFC 3339.")
    ] = None,
    tail: Annotated[
        int | None, typer.Option("--tail", "-n", min=0, help="Of what is there already, so many last lines (of each).")
    ] = None,
    timestamps: Annotated[
        bool,
        typer.Option(
            "--timestamps", "-t", help="With the time at which each line was written, or stored if nobody knows that."
        ),
    ] = False,
    prefix: Annotated[bool, typer.Option("--prefix", help="With job, try and step before each line.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="The bytes as they are, with all that steers a terminal.")] = False,
    queue_url: QueueUrl = None,
    records_url: RecordsUrl = None,
    as_json: JsonFlag = False,
) -> None:
    """Print jobs' logs, and to standard error what is missing of them. Exits 1 if the store has lost or changed a part.

    Of several jobs one log comes after the other; with --follow all of them as they are written, until all have ended.
    On a terminal colours pass and nothing else that steers it; elsewhere no escape sequences do.
    """
    if raw and (timestamps or prefix or as_json):
        raise UsageError("--raw: prints the bytes as they are, so without --timestamps, --prefix and --json")
    job_ids = list(dict.fromkeys(job_ids))
    if raw and len(job_ids) > 1:
        raise UsageError("--raw: prints the bytes of one job; several need --prefix or --json to be told apart")
    wanted: dict[str, Any] = {"follow": follow, "since": moment(since), "tail": tail}
    form: dict[str, Any] = {"stamps": timestamps, "prefix": prefix, "as_json": as_json}
    if len(job_ids) > 1:
        import asyncio  # a single log does without

        printer = _Printer(follow, several=True, **form)
        code = asyncio.run(_print_several(job_ids, printer, wanted, queue_url, records_url))
    else:
        with producer_at(queue_url, records_url) as producer:
            code = int(print_log(producer.handle(job_ids[0]), **wanted, **form, raw=raw))
    if code:
        raise typer.Exit(code)


def print_log(
    handle: Any,
    *,
    follow: bool,
    since: float | None = None,
    tail: int | None = None,
    stamps: bool = False,
    prefix: bool = False,
    as_json: bool = False,
    raw: bool = False,
) -> bool:
    """Print a job's log, and to standard error what is missing. True if the store has lost or changed a part."""
    checks: list[LogCheck] = []
    wanted: dict[str, Any] = {"follow": follow, "since": since, "tail": tail, "checked": checks.append}
    printer = _Printer(follow, stamps=stamps, prefix=prefix, as_json=as_json and not raw)
    if raw:
        for part in handle.logs(**wanted):
            sys.stdout.buffer.write(part)
            sys.stdout.buffer.flush()
    else:
        for line in handle.log_lines(**wanted):
            printer.line(handle.id, line)
    return printer.end(handle.id, checks)


async def _print_several(
    ids: Sequence[str], printer: _Printer, wanted: dict[str, Any], queue_url: str | None, records_url: str | None
) -> int:
    """The worst of their exit codes: trouble with one job is told, and the others go on."""
    import asyncio

    from enqueue.aio import connect

    async with producer_at(queue_url, records_url, connect) as producer:

        async def one(job: str) -> int:
            checks: list[LogCheck] = []
            try:
                async for line in producer.handle(job).log_lines(**wanted, checked=checks.append):
                    printer.line(job, line)
            except LongshoreError as error:
                printer.say(job, str(error))
                return 69 if isinstance(error, QueueUnavailable) else 1  # as `longshore` makes of them for one job
            return int(printer.end(job, checks))

        if wanted["follow"]:
            return max(await asyncio.gather(*map(one, ids)))
        return max([await one(job) for job in ids])


class _Printer:
    """Prints lines in the form that is asked for; `several`: of several jobs, which are told apart."""

    def __init__(self, follow: bool, *, stamps: bool, prefix: bool, as_json: bool, several: bool = False) -> None:
        self._out = sys.stdout.buffer
        self._colours = self._out.isatty()
        self._flush = follow or self._colours
        self._stamps, self._prefix, self._json, self._several = stamps, prefix, as_json, several
        self._groups: dict[str, Groups] = {}

    def line(self, job: str, line: LogLine) -> None:
        """Print one."""
        whose = {"job": job} if self._several else {}
        if self._json:
            text: bytes | None = _json_of(line, whose)
        else:
            groups = self._groups.setdefault(job, Groups()) if self._colours else None
            text = _text_of(line, self._stamps, self._colours, groups)
            if text is not None and self._prefix:
                text = shown(f"{job} {line.attempt} {line.step} | ".encode(), colours=False) + text
        if text is not None:
            self._out.write(text + b"\n")
        if self._flush:
            self._out.flush()

    def end(self, job: str, checks: Sequence[LogCheck]) -> bool:
        """How whole it was; True if the store has lost or changed a part."""
        self._groups.pop(job, None)
        for check in checks:
            if self._json:
                whose = {"job": job} if self._several else {}
                end = {"complete": check.complete, "missing": check.missing, "damaged": check.damaged}
                self._out.write(json.dumps({**whose, "end": end}).encode() + b"\n")
        self._out.flush()
        for sentence in (s for check in checks for s in (*check.missing, *check.damaged)):
            self.say(job, sentence)
        return any(check.damaged for check in checks)

    def say(self, job: str, sentence: str) -> None:
        """To standard error."""
        whose = f"{shown(job.encode(), colours=False).decode()}: " if self._several else ""
        print(f"longshore: {whose}{sentence}", file=sys.stderr, flush=True)


def _text_of(line: LogLine, stamps: bool, colours: bool, groups: Groups | None) -> bytes | None:
    stamp = f"{_stamp(line.at) or '-':24} ".encode() if stamps else b""
    if line.note:
        return stamp + line.note.encode()
    text: bytes | None = shown(line.data, colours=colours)
    if groups is not None and text is not None:
        text = groups.shown(text)
    return None if text is None else stamp + text


def _stamp(at: float | None) -> str | None:
    return None if at is None else (rfc3339(at) or "")[:23] + "Z"


def _json_of(line: LogLine, whose: dict[str, str]) -> bytes:
    """With ASCII alone: nothing in it steers a terminal."""
    told: dict[str, Any] = {**whose, "attempt": line.attempt, "line": line.number, "at": _stamp(line.at)}
    if line.step != "main":
        told["step"] = line.step
    if line.note:
        return json.dumps(told | {"note": line.note}).encode()
    told["text"] = line.text
    if line.text.encode() != line.data:  # it was no UTF-8
        told["base64"] = base64.b64encode(line.data).decode()
    return json.dumps(told).encode()
