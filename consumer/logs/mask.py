"""Replaces secrets in a log, in whatever pieces it comes: a seat belt against accidents, not a wall."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

MASK = b"***"
"""What stands in the place of a secret; touching or overlapping finds that overlap become one."""

SHORTEST = 3
"""A shorter value (bytes) isn't masked: it would shred the log and be guessed from the holes."""

SHORTEST_FORM = 6
"""A shorter value or line of a value (bytes) is masked as it is only: not per line, not in encoded forms."""

LONGEST = 4096
"""A longer value or form is masked in pieces of this many bytes, which bounds what has to be held back."""

_MANY = 1000  # more variants are looked for by a table
_WORDS = 6  # so many variants that are long words are ruled out together
_WORD = 16  # bytes of a long word
_WORD_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_"
_SHAPE = bytes(ord("x") if byte in _WORD_BYTES else ord(" ") for byte in range(256))
_FEED = ord("\n")


class Mask:
    """A Processor that replaces every occurrence of every secret, and of its encoded forms, with `***`.

    Finds that overlap are masked as one, so no order of secrets leaks a part of another. The result doesn't depend on
    how the log is cut into blocks. What is held back is only an end of the log that is the beginning of a secret;
    after a newline that can only be a secret of several lines.
    """

    def __init__(self, secrets: Iterable[str | bytes] = ()) -> None:
        values = {s.encode("utf-8", "replace") if isinstance(s, str) else bytes(s) for s in secrets} - {b""}
        self.unmasked = sum(len(v) < SHORTEST for v in values)
        """How many values were too short to be masked."""
        self.variants = tuple(sorted(_variants(v for v in values if len(v) >= SHORTEST), key=lambda v: (-len(v), v)))
        """All that is looked for, longest first."""
        self._several_lines = tuple(v for v in self.variants if b"\n" in v[:-1])
        self._reach = max(map(len, self.variants), default=1) - 1
        self._prefixes = _Prefixes(self.variants) if len(self.variants) > _MANY else None
        words = tuple(v for v in self.variants if len(v) >= _WORD and not v.translate(None, _WORD_BYTES))
        self._words = _LongWords(words) if len(words) >= _WORDS else None
        self._others = tuple(set(self.variants).difference(words)) if self._words else self.variants
        self._held = b""
        self._covered = 0  # so many leading bytes of _held belong to a secret whose mask is written already

    def feed(self, block: bytes) -> bytes:
        """The block without secrets; the block itself if there is nothing to do."""
        if not self.variants or not block:
            return block
        return self._scan(self._held + block if self._held else block, last=False)

    def finish(self) -> bytes:
        """What was held back."""
        return self._scan(self._held, last=True)

    @property
    def holds(self) -> bool:
        """The end of the log so far may be the beginning of a secret."""
        return bool(self._held)

    def mask_text(self, text: str) -> str:
        """A text by itself (a message, a variable) without secrets; nothing of the log's state is touched."""
        if not self.variants or not text:
            return text
        data = text.encode("utf-8", "replace")
        spans = _merged(self._occurrences(data))
        return _replaced(data, spans).decode("utf-8", "replace") if spans else text

    def _scan(self, data: bytes, *, last: bool) -> bytes:
        found = self._occurrences(data)
        edge = len(data) if last else self._open_from(data)
        if not found and not self._covered and edge == len(data):
            self._held = b""
            return data
        spans = _merged([(0, self._covered), *found] if self._covered else found)
        out: list[bytes] = []
        at = spans.pop(0)[1] if self._covered else 0
        for start, end in spans:
            if start >= edge:
                break
            out += (data[at:start], MASK)
            at = end
        self._held = data[edge:]
        self._covered = max(at - edge, 0)
        if at < edge:
            out.append(data[at:edge])
        return b"".join(out)

    def _occurrences(self, data: bytes) -> list[tuple[int, int]]:
        if self._prefixes is not None:
            return self._prefixes.occurrences(data)
        found: list[tuple[int, int]] = []
        for variant in (*self._others, *self._words.possible(data)) if self._words else self.variants:
            size = len(variant)
            at = data.find(variant)
            while at >= 0:
                overlapping = data.rfind(variant, at + 1, at + 2 * size - 1)
                if overlapping < 0:
                    found.append((at, at + size))
                    at = data.find(variant, at + size)
                else:
                    found.append((at, overlapping + size))
                    at = overlapping
        return found

    def _open_from(self, data: bytes) -> int:
        """Where the earliest beginning of a secret lies that the end of the data leaves unfinished."""
        variants = self._several_lines if data[-1] == _FEED else self.variants
        if not variants:
            return len(data)
        base = max(len(data) - self._reach, 0)
        tail = data[base:]
        size = earliest = len(tail)
        for variant in variants:
            at = tail.find(variant[:1], max(size - len(variant) + 1, 0), earliest)
            while at >= 0:
                if variant.startswith(tail[at:]):
                    earliest = at
                    break
                at = tail.find(variant[:1], at + 1, earliest)
        return base + earliest


class _LongWords:
    """Rules out many variants at once: tokens and base64 can only lie where so many word characters stand in a row."""

    def __init__(self, words: tuple[bytes, ...]) -> None:
        self._words = words
        self._run = b"x" * min(map(len, words))

    def possible(self, data: bytes) -> tuple[bytes, ...]:
        """The words that occur in the data."""
        shape = data.translate(_SHAPE)
        at = shape.find(self._run)
        if at < 0:
            return ()
        runs = []
        while at >= 0:
            end = shape.find(b" ", at)
            end = len(data) if end < 0 else end
            runs.append(data[at:end])
            at = shape.find(self._run, end)
        text = b" ".join(runs)
        return tuple(word for word in self._words if word in text)


class _Prefixes:
    """Finds thousands of variants at a constant price: a pattern of their first three bytes, then a table."""

    def __init__(self, variants: Iterable[bytes]) -> None:
        self._by_prefix: dict[bytes, list[bytes]] = {}
        for variant in variants:
            self._by_prefix.setdefault(variant[:SHORTEST], []).append(variant)
        self._pattern = re.compile(b"(?=" + _tree(sorted(self._by_prefix)) + b")")

    def occurrences(self, data: bytes) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for match in self._pattern.finditer(data):
            at = match.start()
            for variant in self._by_prefix[data[at : at + SHORTEST]]:
                if data.startswith(variant, at):  # the longest one comes first and covers the others
                    found.append((at, at + len(variant)))
                    break
        return found


def _tree(words: list[bytes]) -> bytes:
    if not words[0]:
        return b""
    branches: dict[bytes, list[bytes]] = {}
    for word in words:
        branches.setdefault(word[:1], []).append(word[1:])
    return b"(?:" + b"|".join(re.escape(first) + _tree(rest) for first, rest in branches.items()) + b")"


def _merged(found: list[tuple[int, int]]) -> list[tuple[int, int]]:
    if len(found) < 2:
        return found
    spans: list[tuple[int, int]] = []
    for start, end in sorted(found):
        if spans and start < spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
    return spans


def _replaced(data: bytes, spans: list[tuple[int, int]]) -> bytes:
    out: list[bytes] = []
    at = 0
    for start, end in spans:
        out += (data[at:start], MASK)
        at = end
    out.append(data[at:])
    return b"".join(out)


def _variants(values: Iterable[bytes]) -> set[bytes]:
    found: set[bytes] = set()
    for value in values:
        wanted = {value}
        if len(value) >= SHORTEST_FORM:
            wanted |= _forms(value)
            trimmed = value.strip()
            if trimmed != value and len(trimmed) >= SHORTEST_FORM:
                wanted |= {trimmed} | _forms(trimmed)
        if b"\n" in value:
            wanted.add(value.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
            lines = (line.strip() for line in value.split(b"\n"))
            wanted |= {line for line in lines if len(line) >= SHORTEST_FORM}
        for form in wanted:
            found.update(_pieces(form))
    return found


def _pieces(form: bytes) -> Iterable[bytes]:
    if len(form) <= LONGEST:
        return (form,)
    return (form[min(at, len(form) - LONGEST) :][:LONGEST] for at in range(0, len(form), LONGEST))


def _forms(value: bytes) -> set[bytes]:
    """The value in base64, URL-quoted and JSON-escaped."""
    forms = set()
    for shift, skip in ((0, 0), (1, 2), (2, 3)):  # a text before the secret shifts it; its own characters stay apart
        whole = (shift + len(value)) * 8 // 6
        encoded = base64.b64encode(b"\0" * shift + value)[skip:whole]
        forms |= {encoded, encoded.replace(b"+", b"-").replace(b"/", b"_")}
    for quoted in (quote(value, safe=""), quote(value), quote(value, safe="!'()*"), quote_plus(value)):
        forms |= {quoted.encode(), re.sub("%..", lambda m: m[0].lower(), quoted).encode()}
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return forms
    for ascii_only in (True, False):
        escaped = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        markup = escaped.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
        forms |= {e.encode() for e in (escaped, escaped.replace("/", "\\/"), markup)}
    return forms
