"""Outcome variables that a job sets by printing a line; the lines are taken out of the log.

    ::set-outcome-var key=value
    ::start-multiline-outcome-var key
    ...                                 any lines, further blocks too
    ::end-multiline-outcome-var

What else a line can tell is in `consumer.logs.commands`.

A directive stands at the beginning of a line. `key` is made of letters, digits, `_` and `-`. The value is all that
follows the `=`; a carriage return at a line's end is dropped. The last set wins. A block that is opened for a key
which has a value already goes on after it. An inner block's lines belong to the inner key. A block that isn't closed
lasts to the end of the log. An end outside a block, a start without a key and unknown directives are ordinary lines.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from consumer.logs.commands import MAX_MASK, MAX_MASKS, MAX_NOTICES, masks_in, notice_in, progress_in
from consumer.logs.forms import SHORTEST
from enqueue.record import Notice

MAX_VALUE = 64 * 1024
"""Bytes of one variable."""

MAX_TOTAL = 256 * 1024
"""Bytes of all variables together, names included."""

MAX_VARIABLES = 1000
MAX_NAME = 256

_SET = re.compile(rb"::set-outcome-var\s([\w-]+)=(.*)", re.DOTALL)
_START = re.compile(rb"::start-multiline-outcome-var\s([\w-]+)")
_TRACE = re.compile(rb"\+\s")
_END = b"::end-multiline-outcome-var"


class _Block:
    """A multi-line variable that is being read."""

    __slots__ = ("key", "refused")

    def __init__(self, key: bytes, *, refused: bool) -> None:
        self.key = key
        self.refused = refused


class Directives:
    """A Processor that reads the directives from the raw log and takes them out of it.

    A variable that breaks a bound is refused: a line `::error::outcome variable 'x' refused: ...` comes in its place,
    a set variable keeps its former value, a block's variable is dropped and the rest of its lines stay in the log.

    `changed` is called whenever a variable has a new value: somebody stores them then, and sets `stored` to the
    `version` that the stored ones had. `learn` is told each value that is to be masked from now on, and at how many
    bytes of what `feed` is about to return. `ask` reads `::enqueue`: whether a line is one, and why it is refused.
    `traced`: what a shell prints of its commands (`+ ...`) is no part of a block, as with OpsLevel's runner.
    """

    def __init__(
        self,
        changed: Callable[[], None] | None = None,
        learn: Callable[[bytes, int], None] | None = None,
        ask: Callable[[bytes], tuple[bool, str | None]] = lambda line: (False, None),
        *,
        traced: bool = False,
    ) -> None:
        self._changed = changed
        self._learn = learn
        self._ask = ask
        self._traced = traced
        self._masks = 0
        self._out = 0  # bytes of what is about to be returned
        self.notices: list[Notice] = []
        """The first MAX_NOTICES errors and warnings, not masked."""
        self.further_notices = 0
        self.version = self.stored = 0
        self.progress: tuple[float, str] | None = None
        """Percent and text, as the job said last; not masked."""
        self._values: dict[bytes, bytearray] = {}
        self._total = 0
        self._open: list[_Block] = []
        self._plain: bytes | None = None  # the next block, if it was looked through already
        self._midline = False  # the last block ended within a line ...
        self._taken = False  # ... whose beginning was taken out of the log

    @property
    def variables(self) -> dict[str, str]:
        """The variables so far, unmasked; bytes that aren't UTF-8 are replaced."""
        return {key.decode(): value.decode("utf-8", "replace") for key, value in self._values.items()}

    def feed(self, block: bytes) -> bytes:
        """The block without directives; the block itself if it holds none."""
        if not block:
            return block
        if not self.edits(block):
            self._midline, self._plain = block[-1] != 10, None
            return block
        out: list[bytes] = []
        at = self._rest_of_line(block, out) if self._midline else 0
        self._out = sum(map(len, out))
        while at < len(block):
            if not self._open and not block.startswith(b"::", at):
                found = block.find(b"\n::", at)
                end = found + 1 if found >= 0 else len(block)
                out.append(block[at:end])
                self._taken = False
            else:
                newline = block.find(b"\n", at)
                end = newline + 1 if newline >= 0 else len(block)
                line = block[at:end]
                kept = self._line(line)
                self._taken = not kept.endswith(line)
                out.append(kept)
            self._out += len(out[-1])
            at = end
        self._midline = block[-1] != 10
        return b"".join(out)

    def edits(self, block: bytes) -> bool:
        """It may hold a directive, or a part of one."""
        if block is self._plain:
            return False
        if self._open or self._midline or block.startswith(b"::") or b"\n::" in block:
            return True
        self._plain = block
        return False

    def finish(self) -> bytes:
        """Nothing is ever held back."""
        return b""

    @property
    def holds(self) -> bool:
        """A variable isn't whole, or not stored: nobody could go on from here without what precedes."""
        return self.version != self.stored or bool(self._open)

    def _told(self) -> None:
        if self._changed is not None:
            self.version += 1
            self._changed()

    def _rest_of_line(self, block: bytes, out: list[bytes]) -> int:
        """A line that began in the former block: where its beginning went, its rest goes."""
        end = block.find(b"\n") + 1 or len(block)
        if not self._taken:
            out.append(block[:end])
        elif self._open and not self._open[-1].refused:
            out.append(self._captured(block[:end]))
            self._taken = not out[-1]
        return end

    def _line(self, line: bytes) -> bytes:
        """What the log gets for a line that is a directive or stands in a block."""
        if line.startswith(b"::add-mask") and (values := masks_in(line)) is not None:
            return self._masked(values)
        if self._open:
            return self._line_in_block(line)
        if match := _SET.match(line):
            key, value = match[1], match[2].removesuffix(b"\n").removesuffix(b"\r")
            problem = self._problem(key, len(value), len(self._values.get(key, b"")))
            if problem:
                return self._refusal(key, problem)
            self._forget(key)
            self._values[key] = bytearray(value)
            self._total += len(key) + len(value)
            self._told()
            return b""
        if (progress := progress_in(line)) is not None:
            self.progress = progress
            if self._changed is not None:  # not a new version: whoever adopts the job does without
                self._changed()
            return b""
        if (notice := notice_in(line)) is not None:
            self._note(notice)
            return line
        if line.startswith(b"::enqueue"):
            known, problem = self._ask(line)
            if known:
                return b"" if problem is None and self._changed_now() else self._refused(f"enqueue refused: {problem}")
        return self._started(line)

    def note(self, text: str) -> None:
        """An error of ours that belongs to the job's."""
        self._note(Notice(level="error", message=text))

    def _changed_now(self) -> bool:
        if self._changed is not None:
            self._changed()
        return True

    def _masked(self, values: tuple[bytes, ...]) -> bytes:
        self._masks += 1
        if self._learn is None:
            return b""
        problem = None
        if self._masks > MAX_MASKS:
            problem = f"there are {MAX_MASKS} already"
        elif len(values[0]) > MAX_MASK:
            problem = f"its value has more than {MAX_MASK} bytes"
        elif len(values[0]) < SHORTEST:
            problem = f"its value has less than {SHORTEST} bytes"
        if problem:
            return self._refused(f"a mask is refused: {problem}")
        for value in values:
            self._learn(value, self._out)
        if self._changed is not None:  # what was told before is told again without it
            self._changed()
        return b""

    def _note(self, notice: Notice) -> None:
        if len(self.notices) >= MAX_NOTICES:
            self.further_notices += 1
            return
        self.notices.append(notice)
        if self._changed is not None:
            self._changed()

    def _refused(self, text: str) -> bytes:
        self._note(Notice(level="error", message=text))
        line = text.replace("\r", "%0D").replace("\n", "%0A")  # a job's own words may be in it: it stays one line
        return f"::error::{line}\n".encode()

    def _refusal(self, key: bytes, problem: str) -> bytes:
        return self._refused(f"outcome variable '{key[:80].decode()}' refused: {problem}")

    def _line_in_block(self, line: bytes) -> bytes:
        if self._traced and _TRACE.match(line):
            return line
        if line.startswith(_END):
            block = self._open.pop()
            if not block.refused and self._values[block.key].endswith(b"\n"):
                del self._values[block.key][-1:]
                self._total -= 1
            if not block.refused:
                self._told()
            return b""
        if line.startswith(b"::start-") and (started := self._started(line)) is not line:
            return started
        return line if self._open[-1].refused else self._captured(line)

    def _started(self, line: bytes) -> bytes:
        match = _START.match(line)
        if not match:
            return line
        key = match[1]
        problem = None if key in self._values else self._problem(key, 0, 0)
        self._open.append(_Block(key, refused=problem is not None))
        if problem:
            return self._refusal(key, problem)
        if key not in self._values:
            self._values[key] = bytearray()
            self._total += len(key)
        return b""

    def _captured(self, line: bytes) -> bytes:
        key = self._open[-1].key
        text = line[:-2] + b"\n" if line.endswith(b"\r\n") else line
        value = self._values[key]
        problem = self._problem(key, len(value) + len(text), len(value))
        if problem is None:
            value += text
            self._total += len(text)
            return b""
        self._forget(key)
        self._told()
        for block in self._open:
            block.refused = block.refused or block.key == key
        return self._refusal(key, problem) + line

    def _forget(self, key: bytes) -> None:
        former = self._values.pop(key, None)
        if former is not None:
            self._total -= len(key) + len(former)

    def _problem(self, key: bytes, size: int, former: int) -> str | None:
        """Why a value of `size` bytes can't take the place of one of `former` bytes."""
        known = key in self._values
        if len(key) > MAX_NAME:
            return f"its name has {len(key)} bytes, {MAX_NAME} are allowed"
        if size > MAX_VALUE:
            return f"its value has more than {MAX_VALUE} bytes"
        if not known and len(self._values) >= MAX_VARIABLES:
            return f"there are {MAX_VARIABLES} variables already"
        if self._total + size - former + (0 if known else len(key)) > MAX_TOTAL:
            return f"all variables together would have more than {MAX_TOTAL} bytes"
        return None
