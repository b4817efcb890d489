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
        return Job.load(_parse(raw, name))
    except InvalidJob as error:
        raise InvalidJob("\n".join(f"{name}: {problem}" for problem in error.problems), error.problems) from None


def _parse(raw: bytes, name: str) -> Any:
    import yaml

    if len(raw) > 2 * MAX_JOB_BYTES:
        raise UsageError(f"{name}: {len(raw)} bytes are too large for a job file")
    try:
        return yaml.load(raw, Loader=_Loader())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UsageError(f"{name}: isn't YAML or JSON{where}: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{name}: isn't YAML or JSON: {str(error).splitlines()[0]}") from None


def _Loader() -> Any:
    """PyYAML's safe loader without aliases (a file of ten lines could stand for gigabytes) and with unique keys."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                event = self.peek_event()
                raise yaml.composer.ComposerError(
                    None, None, "aliases (*name) aren't accepted in job files", event.start_mark
                )
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set()
            for key, _ in node.value:
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' is given twice", key.start_mark)
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    return Loader
