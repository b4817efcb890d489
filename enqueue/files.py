"""Job files: YAML or JSON, one Job each."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from enqueue.errors import InvalidJob, UsageError
from enqueue.job import MAX_JOB_BYTES, Job


def load_job(path: str) -> Job:
    """Read a job file; `-` is standard input. Raises UsageError (no such file, not YAML) and InvalidJob."""
    name = "standard input" if path == "-" else path
    try:
        raw = sys.stdin.buffer.read(4 * MAX_JOB_BYTES) if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror or error}") from None
    try:
        return Job.load(load_yaml(raw, name))
    except InvalidJob as error:
        raise InvalidJob("\n".join(f"{name}: {problem}" for problem in error.problems), error.problems) from None


def load_yaml(raw: bytes, name: str) -> Any:
    """Read YAML or JSON of bounded size, without aliases and with unique keys.

    Raises UsageError that begins with `name`.
    """
    import yaml

    if len(raw) > 2 * MAX_JOB_BYTES:
        raise UsageError(f"{name}: {len(raw)} bytes are too large")
    try:
        _check_events(raw)
        return yaml.load(raw, Loader=_Loader())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UsageError(f"{name}: isn't YAML or JSON{where}: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{name}: isn't YAML or JSON: {str(error).splitlines()[0]}") from None


def _check_events(raw: bytes) -> None:
    """No aliases: a file of ten lines could stand for gigabytes. No abysses: whoever walks them would fall."""
    import yaml

    depth = 0
    for event in yaml.parse(raw, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.events.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases (*name) aren't accepted", problem_mark=_mark(event))
        depth += isinstance(event, yaml.events.CollectionStartEvent) - isinstance(event, yaml.events.CollectionEndEvent)
        if depth > _DEEPEST:
            raise yaml.MarkedYAMLError(problem="it is nested too deeply", problem_mark=_mark(event))


_DEEPEST = 100


def _mark(event: Any) -> Any:
    return event.start_mark


def _Loader() -> Any:
    """PyYAML's safe loader with unique keys."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' is given twice", key.start_mark)
                seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
            return super().construct_mapping(node, deep)

    return Loader
