"""Replaces secrets in a log, in whatever pieces it comes: a seat belt against accidents, not a wall."""

from __future__ import annotations

import re
from array import array
from collections.abc import Collection, Iterable
from contextvars import ContextVar
from functools import lru_cache
from weakref import ReferenceType

from consumer.logs.forms import SHORTEST, variants_of

MASK = b"***"
"""What stands in the place of a secret; touching or overlapping finds that overlap become one."""

_MANY = 1000  # more variants are looked for by a table
_FEW = 16  # fewer are looked for one by one
_GRAM = 4  # bytes that are compared as one number
_STRIDES = 8, 4  # of these numbers every eighth, or every fourth
_BARE = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_SHAPE = bytes(ord("x") if byte in _BARE else ord(" ") for byte in range(256))
_FEED = ord("\n")

current: ContextVar[ReferenceType[Mask] | None] = ContextVar("current", default=None)
"""Masks the secrets of the job that is being run here: for what we say ourselves, in our log and elsewhere.

Weak: a connection that was opened for a job remembers its context for as long as it lives.
"""


def masked_here(text: str) -> str:
    """A text without the secrets of the job that is being run here."""
    known = current.get()
    mask = known() if known is not None else None
    return text if mask is None else mask.mask_text(text)


class Mask:
    """A Processor that replaces every occurrence of every secret, and of its encoded forms, with `***`.

    Finds that overlap are masked as one, so no order of secrets leaks a part of another. The result doesn't depend on
    how the log is cut into blocks. What is held back is only an end of the log that is the beginning of a secret;
    after a newline that can only be a secret of several lines. `known`: variants that were computed before.
    """

    def __init__(self, secrets: Iterable[str | bytes] = (), known: Collection[bytes] = ()) -> None:
        values = {_bytes(secret) for secret in secrets} - {b""}
        self.unmasked = sum(len(v) < SHORTEST for v in values)
        """How many values were too short to be masked."""
        if values or not isinstance(known, frozenset):
            self._look_for({*known, *variants_of(values)})
        else:
            self._look_by(_plan(known))
        self._learned: list[tuple[int, bytes]] = []
        self._held = b""
        self._covered = 0  # so many leading bytes of _held belong to a secret whose mask is written already

    def _look_for(self, variants: set[bytes]) -> None:
        self._look_by(_Plan(variants))

    def _look_by(self, plan: _Plan) -> None:
        self.variants, self._several_lines, self._reach = plan.variants, plan.several_lines, plan.reach
        """All that is looked for, longest first."""
        self._prefixes, self._grams, self._others = plan.prefixes, plan.grams, plan.others

    def add(self, secrets: Iterable[str | bytes]) -> None:
        """Look for these as well, from what comes next on."""
        if new := variants_of(map(_bytes, secrets)) - set(self.variants):
            self._look_for({*self.variants, *new})

    def learn(self, value: bytes, offset: int) -> None:
        """Look for this as well, from so many bytes of the next block on. In the block's order."""
        self._learned.append((offset, value))

    def feed(self, block: bytes) -> bytes:
        """The block without secrets; the block itself if there is nothing to do."""
        if self._learned and block:
            return self._feed_learning(block)
        if not self.variants or not block:
            return block
        return self._scan(self._held + block if self._held else block, last=False)

    def _feed_learning(self, block: bytes) -> bytes:
        learned, self._learned = self._learned, []
        out: list[bytes] = []
        at = index = 0
        while index < len(learned):
            offset = learned[index][0]
            if offset > at:
                out.append(self.feed(block[at:offset]))
                at = offset
            values: list[bytes] = []  # at once what comes together: the tables are made anew
            while index < len(learned) and learned[index][0] == offset:
                values.append(learned[index][1])
                index += 1
            self.add(values)
        return b"".join([*out, self.feed(block[at:])])

    def finish(self) -> bytes:
        """What was held back."""
        return self._scan(self._held, last=True)

    @property
    def holds(self) -> bool:
        """The end of the log so far may be the beginning of a secret."""
        return bool(self._held)

    def mask_text(self, text: str, *, cut: bool = False) -> str:
        """A text by itself (a message, a variable) without secrets; nothing of the log's state is touched.

        `cut`: the text went on, and what may be the beginning of a secret at its end goes too.
        """
        if self._learned:
            self.add([value for _, value in self._learned])
        if not self.variants or not text:
            return text
        data = text.encode("utf-8", "replace")
        spans = _merged(self._occurrences(data))
        if cut and (edge := self._open_from(data)) < len(data):
            spans = _merged([*spans, (edge, len(data))])
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
        for variant in (*self._others, *self._grams.possible(data)) if self._grams else self.variants:
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


class _Plan:
    """How to look for these: made once, used by each block."""

    def __init__(self, variants: Collection[bytes]) -> None:
        self.variants = tuple(sorted(variants, key=lambda v: (-len(v), v)))
        self.several_lines = tuple(v for v in self.variants if b"\n" in v[:-1])
        self.reach = max(map(len, self.variants), default=1) - 1
        self.prefixes = _Prefixes(self.variants) if len(self.variants) > _MANY else None
        self.grams, self.others = _ruled_out_together(self.variants)


@lru_cache(4)
def _plan(variants: frozenset[bytes]) -> _Plan:
    """For the consumer's own secrets, which are those of every job. A job's own aren't kept beyond its end."""
    return _Plan(variants)


def _ruled_out_together(variants: tuple[bytes, ...]) -> tuple[_Grams | None, tuple[bytes, ...]]:
    """The variants that are long and many enough for a table, and the others, which are looked for one by one."""
    for stride in _STRIDES:
        words = [v for v in variants if len(v) >= _Grams.shortest(_GRAM, stride)]
        bare = [word for word in words if not word.translate(None, _BARE)]
        if len(words) - len(bare) < _FEW:
            words = bare
        rest = set(variants).difference(words)
        if len(words) >= _FEW and (len(rest) < 4 or stride == _STRIDES[-1]):
            return _Grams(words, _GRAM, stride, bare=len(words) == len(bare)), tuple(rest)
    return None, variants


class _Grams:
    """Rules out many words at once.

    The data is compared in numbers of `size` bytes, every `stride`-th of them. A word that is long enough has one of
    those whole within it, wherever it lies: so each word stands in a table by the few that may come first. `bare`:
    the words are letters and digits, as tokens and base64 are; where so many of these don't stand in a row is nothing
    to compare.
    """

    def __init__(self, words: Collection[bytes], size: int, stride: int, *, bare: bool) -> None:
        self._run = b"x" * min(map(len, words)) if bare else b""
        self._size, self._stride = size, stride
        self._format = {1: "B", 2: "H", 4: "I"}[size]
        self._words: dict[int, list[bytes]] = {}
        for word in words:
            for at in range(size * stride):
                (gram,) = array(self._format, word[at : at + size])
                self._words.setdefault(gram, []).append(word)
        self._known = set(self._words)

    @staticmethod
    def shortest(size: int, stride: int) -> int:
        """Bytes of the shortest word that can be ruled out this way."""
        return size + size * stride - 1

    def possible(self, data: bytes) -> Collection[bytes]:
        """The words that may occur in the data."""
        if self._run and self._run not in data.translate(_SHAPE):
            return ()
        numbers = array(self._format, data[: len(data) // self._size * self._size])[:: self._stride]
        if self._known.isdisjoint(numbers):
            return ()
        return {word for gram in self._known.intersection(numbers) for word in self._words[gram]}


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


def _bytes(secret: str | bytes) -> bytes:
    return secret.encode("utf-8", "replace") if isinstance(secret, str) else bytes(secret)
