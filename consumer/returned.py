"""How a function that a job ran has ended: pure. `consumer/call_python.py` tells it, in the job.

What is short comes with the outcome file, which no loss of logs can lose; what is longer in the output, on lines that
are taken out of the log: then the file has its size and hash, so that nothing is passed on that isn't whole.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import zlib
from typing import Any

from consumer.call_python import DEPTH
from consumer.values import storable
from enqueue.record import HINTS, Outcome, Reason, Status

VARIABLE = "longshore-call"
"""The outcome variable that tells the function's end."""

MARK = b"::longshore-call "
_MOST = 2_000_000
"""Bytes that are kept of such lines, and of what they unpack to."""


class ShippedEnd:
    """A Processor that takes the lines of a function's end out of the log."""

    def __init__(self) -> None:
        self._lines = bytearray()

    @property
    def lines(self) -> bytes:
        """What they hold, in their order."""
        return bytes(self._lines)

    def feed(self, block: bytes) -> bytes:
        """The block without those lines, and without the newline that went before the first of them."""
        if MARK not in block:
            return block
        kept: list[bytes] = []
        for line in block.splitlines(keepends=True):
            if not line.startswith(MARK):
                kept.append(line)
                continue
            if not self._lines and kept and kept[-1] == b"\n":
                kept.pop()
            if len(self._lines) < _MOST:
                self._lines += line[len(MARK) :].strip() + b" "
        return b"".join(kept)

    def finish(self) -> bytes:
        """Nothing is ever held back."""
        return b""

    @property
    def holds(self) -> bool:
        """Whoever goes on from here needs these lines too."""
        return bool(self._lines)


def returned(outcome: Outcome, shipped: bytes) -> tuple[Outcome, str]:
    """The Outcome of a job that ran a function, and its traceback. `shipped`: what it sent beside its log.

    What ended the process from outside (a signal, memory, a deadline) stays the reason, whatever the function told.
    """
    variables = dict(outcome.variables)
    told = variables.pop(VARIABLE, None)
    outcome = outcome.model_copy(update={"variables": variables})
    succeeded = outcome.status is Status.SUCCEEDED
    if not succeeded and outcome.reason != Reason.EXIT_CODE:
        return outcome, ""
    if told is None:
        if not succeeded:
            return outcome, ""
        text = "the process ended with code 0 before the function had returned"
        return _failed(outcome, Reason.EXCEPTION, text), ""
    end, problem = _read(told, shipped)
    if problem:
        return (_failed(outcome, Reason.RESULT_LOST, problem) if succeeded else outcome), ""
    if "exception" in end:
        text = ": ".join(part for part in (_text(end, "exception"), _text(end, "message")) if part)
        return _failed(outcome, Reason.EXCEPTION, text), _text(end, "traceback")
    if not succeeded:  # something after the function's end, such as a handler of atexit
        return outcome, ""
    if "unfit" in end:
        return _failed(outcome, Reason.RESULT_UNFIT, f"the function returned, but {_text(end, 'unfit')}"), ""
    if _deeper(end.get("value"), DEPTH):
        return _failed(outcome, Reason.RESULT_UNFIT, "the function returned, but the value is nested too deeply"), ""
    return outcome.model_copy(update={"result": end.get("value")}), ""


def _deeper(value: object, left: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(not left or _deeper(each, left - 1) for each in inner)


def _failed(outcome: Outcome, reason: Reason, message: str) -> Outcome:
    note = outcome.message if outcome.status is Status.SUCCEEDED else None
    said = "; ".join(part for part in (message, note) if part)
    update = {"status": Status.FAILED, "reason": reason.value, "message": said, "hint": HINTS[reason]}
    return outcome.model_copy(update=update)


def _text(end: dict[str, Any], name: str) -> str:
    return storable(str(end.get(name) or ""))


def _read(told: str, shipped: bytes) -> tuple[dict[str, Any], str | None]:
    """What the function told, or why nobody can know."""
    try:
        end = json.loads(told)
        if not isinstance(end, dict):
            raise ValueError
        if "sha256" not in end:
            return end, None
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(b"".join(map(base64.b64decode, shipped.split())), _MOST)
        if hashlib.sha256(text).hexdigest() != end["sha256"]:
            raise ValueError
        whole = json.loads(text)
        return (whole, None) if isinstance(whole, dict) else ({}, "its end can't be read")
    except (ValueError, RecursionError, zlib.error, binascii.Error):
        return {}, "the function ended, but what it told of its end is lost: its output wasn't read to the end"
