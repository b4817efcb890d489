"""A log's lines for a terminal or a file: of all that steers a terminal only colours may pass."""

from __future__ import annotations

import re

_CONTROL = re.compile(
    r"(?:\x1b\[|\x9b)([0-?]*)[ -/]*([@-~])"  # a sequence with parameters, such as a colour's
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"  # a string, such as a title
    r"|\x1b[ -/]*[0-~]?"
    r"|[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"  # controls, and what turns text round
)
_COLOURS = {*range(8), 9, *range(21, 30), *range(30, 50), *range(90, 108)}
_EXTENDED = (38, 48)
RESET = "\x1b[0m"


def shown(line: bytes, *, colours: bool) -> bytes:
    """A line (without its newline) as it may be printed.

    Escape sequences are taken out, but colours if they are wanted; other control characters become visible: `^H`,
    `<U+202E>`. A carriage return at the end goes.
    """
    text = line.decode("utf-8", "replace" if colours else "surrogateescape").rstrip("\r")
    coloured = False

    def safe(match: re.Match[str]) -> str:
        nonlocal coloured
        found = match[0]
        if colours and match[2] == "m" and (kept := _colour(match[1])) is not None:
            coloured = True
            return kept
        if len(found) > 1 or found in ("\x1b", "\x9b"):
            return ""
        code = ord(found)
        if code < 0x20 or code == 0x7F:
            return "^" + chr(code ^ 0x40)
        return f"<U+{code:04X}>"

    text = _CONTROL.sub(safe, text)
    if coloured:
        text += RESET
    return text.encode("utf-8", "surrogateescape" if not colours else "replace")


def _colour(parameters: str) -> str | None:
    """The sequence with colours and weights alone; None if it is something else. Text can't be hidden by it."""
    if not re.fullmatch(r"[\d;:]*", parameters):
        return None
    numbers = [int(part or 0) for part in re.split("[;:]", parameters[:100])]
    kept: list[int] = []
    while numbers:
        number = numbers.pop(0)
        if number in _EXTENDED:
            size = {5: 2, 2: 4}.get(numbers[0] if numbers else 0, 0)
            if size and len(numbers) >= size and all(value < 256 for value in numbers[:size]):
                kept += [number, *numbers[:size]]
            del numbers[:size]
        elif number in _COLOURS:
            kept.append(number)
    return f"\x1b[{';'.join(map(str, kept))}m" if kept else ""
