"""A job's `::group`, `::endgroup`, `::error` and `::warning` lines for a terminal; elsewhere they stay as they are."""

from __future__ import annotations

import re

_VALUE = rb"\w+=[^,:]*(?::(?!:)[^,:]*)*"
PROPERTIES = rb"(?:" + _VALUE + rb"(?:," + _VALUE + rb")*)?"
"""A pattern of what may stand between a notice's word and its `::`, such as `file=app.py,line=3`; may be nothing."""
_LINE = re.compile(
    rb"::(?:(group|endgroup)(?:::|[ \t]+|$)|(error|warning|notice)(?:::|[ \t]+(?:" + PROPERTIES + rb"::)?|$))(.*)",
    re.DOTALL,
)
_COLOURS = {b"error": b"\x1b[31m", b"warning": b"\x1b[33m", b"notice": b"\x1b[36m"}
_BOLD, _PLAIN = b"\x1b[1m", b"\x1b[0m"


class Groups:
    """Shows one line after the other. Groups don't nest, as on GitHub: the next one ends the former."""

    def __init__(self) -> None:
        self._open = False

    def shown(self, line: bytes) -> bytes | None:
        """The line as people shall see it; None for one that they needn't."""
        match = _LINE.match(line) if line.startswith(b"::") else None
        if match is None:
            return b"  " + line if self._open else line
        word, text = match[1] or match[2], match[3]
        if word == b"endgroup":
            self._open = False
            return None
        if word == b"group":
            self._open = True
            return _BOLD + b"> " + text + _PLAIN
        return (b"  " if self._open else b"") + _COLOURS[word] + word + b": " + text + _PLAIN
