"""The command `longshore logs`: a log for people's eyes, for files and for programs, and how whole it is."""

from __future__ import annotations

import base64
import json
import re
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from enqueue.cli_options import JobId, JsonFlag, QueueUrl, RecordsUrl, producer_at
from enqueue.errors import UsageError
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
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    since: Annotated[
        str | None, typer.Option("--since", help="Only lines since then: 10m ago, or a time in RFC 3339.")
    ] = None,
    tail: Annotated[
        int | None, typer.Option("--tail", "-n", min=0, help="Of what is there already, so many last lines.")
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
    """Print a job's log, and to standard error what is missing of it. Exits 1 if the store has lost or changed a part.

    On a terminal colours pass and nothing else that steers it; elsewhere no escape sequences do.
    """
    if raw and (timestamps or prefix or as_json):
        raise UsageError("--raw: prints the bytes as they are, so without --timestamps, --prefix and --json")
    begin = moment(since)
    with producer_at(queue_url, records_url) as producer:
        handle = producer.handle(job_id)
        wanted: dict[str, Any] = {"follow": follow, "since": begin, "tail": tail}
        if print_log(handle, **wanted, stamps=timestamps, prefix=prefix, as_json=as_json, raw=raw):
            raise typer.Exit(1)


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
    out = sys.stdout.buffer
    if raw:
        for part in handle.logs(**wanted):
            out.write(part)
            out.flush()
    else:
        colours = out.isatty()
        groups = Groups() if colours and not as_json else None
        for line in handle.log_lines(**wanted):
            text = _json_of(line) if as_json else _text_of(line, stamps, colours, groups)
            if text is not None:
                out.write((_prefix(handle.id, line) if prefix and not as_json else b"") + text + b"\n")
            if follow or colours:
                out.flush()
    if as_json and checks:
        end = {"complete": checks[0].complete, "missing": checks[0].missing, "damaged": checks[0].damaged}
        out.write(json.dumps({"end": end}).encode() + b"\n")
    out.flush()
    for sentence in (s for check in checks for s in (*check.missing, *check.damaged)):
        print(f"longshore: {sentence}", file=sys.stderr)
    return any(check.damaged for check in checks)


def _prefix(job: str, line: LogLine) -> bytes:
    return shown(f"{job} {line.attempt} {line.step} | ".encode(), colours=False)


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


def _json_of(line: LogLine) -> bytes:
    """With ASCII alone: nothing in it steers a terminal."""
    told: dict[str, Any] = {"attempt": line.attempt, "line": line.number, "at": _stamp(line.at)}
    if line.step != "main":
        told["step"] = line.step
    if line.note:
        return json.dumps(told | {"note": line.note}).encode()
    told["text"] = line.text
    if line.text.encode() != line.data:  # it was no UTF-8
        told["base64"] = base64.b64encode(line.data).decode()
    return json.dumps(told).encode()
