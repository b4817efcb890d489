"""What a job tells by a line besides variables: pure readers of one line each.

::add-mask VALUE                     a secret, masked from the next line on; also ::add-mask::VALUE
::error MESSAGE                      or ::warning, ::notice: shown with the outcome; also as
::error file=a.py,line=3::MESSAGE    GitHub's commands have it, with title, file and line
::progress 40 copying                how far it has come, in percent (0 to 100), and what it does
"""

from __future__ import annotations

import re

from enqueue.groups import PROPERTIES
from enqueue.record import Notice

MAX_PROGRESS = 500
"""Bytes of what a job says that it does."""

MAX_NOTICE = 1000
"""Characters of a notice's text."""

MAX_NOTICES = 50

MAX_MASKS, MAX_MASK = 200, 64 * 1024
"""Values that one attempt may add to be masked, and bytes of one."""

_RAW = 8 * 1024  # of a text that is masked before it is cut
_PROGRESS = re.compile(rb"::progress[ \t]+(\d{1,3}(?:\.\d{1,6})?)%?(?:[ \t]+([^\r\n]*))?\r?\n?\Z")
_MASK = re.compile(rb"::add-mask(?:::|[ \t]+)(.*?)\r?\n?\Z", re.DOTALL)
_NOTICE = re.compile(rb"::(error|warning|notice)(?:::|[ \t]+)(.*?)\r?\n?\Z", re.DOTALL)
_PLACE = re.compile(rb"(" + PROPERTIES + rb")::(.*)\Z", re.DOTALL)
_ESCAPES = {b"%25": b"%", b"%0D": b"\r", b"%0A": b"\n", b"%3A": b":", b"%2C": b","}


def progress_in(line: bytes) -> tuple[float, str] | None:
    """Percent and what the job does, not masked yet, if the line is `::progress`."""
    match = _PROGRESS.match(line)
    if match is None or float(match[1]) > 100:
        return None
    return float(match[1]), (match[2] or b"")[:_RAW].decode("utf-8", "ignore").strip()


def masks_in(line: bytes) -> tuple[bytes, ...] | None:
    """The value that is to be masked, as it stands and with GitHub's %0A, if the line is `::add-mask`."""
    match = _MASK.match(line)
    if match is None:
        return None
    return tuple(dict.fromkeys((match[1], _unescaped(match[1]))))


def notice_in(line: bytes) -> Notice | None:
    """What is to be shown with the outcome, not masked or cut yet, if the line is `::error` or its like."""
    match = _NOTICE.match(line)
    if match is None:
        return None
    text, place = match[2], {}
    if not line.startswith(b"::", 2 + len(match[1])) and (found := _PLACE.match(text)):
        text = found[2]
        place = dict(part.split(b"=", 1) for part in found[1].split(b",") if part)
    number = place.get(b"line", b"")
    return Notice(
        level=match[1].decode(),
        message=_text(text).strip(),
        title=_text(place.get(b"title", b"")) or None,
        file=_text(place.get(b"file", b"")) or None,
        line=int(number) if re.fullmatch(rb"\d{1,9}", number) else None,
    )


def _text(value: bytes) -> str:
    return _unescaped(value[:_RAW]).decode("utf-8", "replace")


def _unescaped(value: bytes) -> bytes:
    return re.sub(rb"%(?:25|0[DdAa]|3[Aa]|2[Cc])", lambda m: _ESCAPES[m[0].upper()], value)
