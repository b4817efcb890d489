"""Outcome variables that a job writes into the file named by `$LONGSHORE_OUTCOME`.

    name=value
    name<<WORD
    ...                 any lines
    WORD
    ::progress 40 copying

Names and bounds are those of the log's directives. Carriage returns at a line's end are dropped, empty lines don't
count, the last set wins. The file may be longer than CAP, but only its end is read: it then begins in the middle.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from consumer.logs.commands import progress_in
from consumer.logs.directives import MAX_NAME, MAX_TOTAL, MAX_VALUE, MAX_VARIABLES
from consumer.values import frozen
from enqueue.record import Tally

CAP = 4096
"""Bytes at the file's end that count: Kubernetes keeps no more of a termination message."""

_NAME = re.compile(r"[\w-]+", re.ASCII)
_NOTED = 3
OUTPUT = "::longshore-output"
"""Begins the last line of a file whose step counted its own output: lines, and bytes without carriage returns."""
_COUNTS = re.compile(r"(?:\A|\n)" + OUTPUT + r" (\d{1,18}) (\d{1,18})\n\Z", re.ASCII)
PROGRESS = "::progress"
"""In the place of a name: no variable has it."""


@frozen
class OutcomeFile:
    """What a file says, unmasked, and what of it couldn't be used."""

    variables: tuple[tuple[str, str], ...] = ()
    problems: tuple[str, ...] = ()
    progress: tuple[float, str] | None = None
    """The last one that it tells: percent, and what the job did."""

    @property
    def note(self) -> str | None:
        """The problems as one sentence, for the Outcome's message; None if there are none."""
        if not self.problems:
            return None
        more = f"; and {len(self.problems) - _NOTED} more" if len(self.problems) > _NOTED else ""
        return "LONGSHORE_OUTCOME: " + "; ".join(self.problems[:_NOTED]) + more


def output_in(text: str) -> tuple[str, Tally | None]:
    """A file without its last line, if that tells what the step counted of its output; and the counts."""
    found = _COUNTS.search(text, max(len(text) - 80, 0))
    if found is None:
        return text, None
    return text[: found.start()], Tally(lines=int(found[1]), bytes=int(found[2]))


def parse(data: bytes | str, *, cut: bool = False, kept: int | None = None) -> OutcomeFile:
    """Read a file, or its end: `cut` says that something stood before `data`.

    `kept`: of the file's end only the first so many bytes are there, so that both ends of `data` may be cut.

    Bytes that aren't UTF-8 are replaced. Nothing is guessed: an assignment that may have lost its beginning, or that
    lacks its end, is left out and told.
    """
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    lines = [line.rstrip("\r") for line in text.split("\n")]
    problems: list[str] = []
    if kept is not None:
        lines = _whole(lines[:-1])
        problems.append(
            f"of the file's last {CAP:,} bytes only the first {kept:,} are read, since the pod has many containers; "
            "what may be cut is lost"
        )
    elif cut:
        lines = _whole(lines)
        problems.append(f"only the file's last {CAP:,} bytes are read, what stood before is lost")
    found: dict[str, str] = {}
    total = 0
    progress = None
    for name, value, problem in _assignments(lines):
        if name == PROGRESS:
            progress = progress_in(value.encode())
            continue
        size, former = len(value.encode()), len(found.get(name, "").encode())
        after = total + size - former + (0 if name in found else len(name))
        problem = problem or _problem(name, size, len(found) + (name not in found), after)
        if problem:
            problems.append(problem)
            continue
        found[name], total = value, after
    return OutcomeFile(tuple(found.items()), tuple(problems), progress)


def _whole(lines: list[str]) -> list[str]:
    """Without the first line, of which a part may be missing, and without the rest of a block that it stood in.

    The end of a block that nobody opened tells that the lines before it belong to a value. A block without an end
    may be a line of such a value too: then nothing is certain.
    """
    rest = lines[1:]
    begin = at = 0
    while at < len(rest):
        split = _split(rest[at])
        at += 1
        if split is not None and split[2]:
            if split[1] not in rest[at:]:
                return []
            at = rest.index(split[1], at) + 1
        elif split is None and rest[at - 1].strip():
            begin = at
    return rest[begin:]


def _assignments(lines: list[str]) -> Iterator[tuple[str, str, str | None]]:
    """(name, value, None) for each assignment, in their order, or a problem as the third."""
    rest = iter(enumerate(lines, 1))
    for number, line in rest:
        if not line.strip():
            continue
        if progress_in(line.encode()) is not None:
            yield PROGRESS, line, None
            continue
        split = _split(line)
        if split is None:
            yield "", "", f"line {number} is neither name=value nor name<<WORD"
            continue
        name, value, block = split
        if not block:
            yield name, value, None
            continue
        inside: list[str] = []
        for _, inner in rest:
            if inner == value:
                yield name, "\n".join(inside), None
                break
            inside.append(inner)
        else:
            yield name, "", f"the variable '{name[:80]}' lacks its last line {value[:80]}"


def _split(line: str) -> tuple[str, str, bool] | None:
    """(name, value or closing word, whether a block begins here); None for anything else."""
    match = _NAME.match(line)
    if match is None:
        return None
    rest = line[match.end() :]
    if rest.startswith("="):
        return match[0], rest[1:], False
    word = rest[2:].strip() if rest.startswith("<<") else ""
    return (match[0], word, True) if word else None


def _problem(name: str, size: int, count: int, total: int) -> str | None:
    if len(name) > MAX_NAME:
        return f"the name '{name[:80]}...' has {len(name)} bytes, {MAX_NAME} are allowed"
    if size > MAX_VALUE:
        return f"the variable '{name}' has more than {MAX_VALUE} bytes"
    if count > MAX_VARIABLES:
        return f"there are more than {MAX_VARIABLES} variables"
    if total > MAX_TOTAL:
        return f"all variables together have more than {MAX_TOTAL} bytes"
    return None
