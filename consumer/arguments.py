"""A call's arguments: their names, their check against a type's JSON Schema, and the forms that a job gets them in."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from consumer.settings_job_types import JobType
from enqueue.closed import kind_of, path_of
from enqueue.errors import InvalidJob
from enqueue.wire.call import Call

PREFIX = "LONGSHORE_ARG_"
"""With an argument's name in upper case: the variable that a command finds it in."""

LONGEST = 32 * 1024
"""Bytes of a value that becomes a variable; a longer one stands in the file alone."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_SHOWN = 8


def named(call: Call, type: JobType) -> dict[str, Any]:
    """The arguments by name: keywords, and positional ones under the names in `parameters`.

    Without `parameters`, a single argument that is an object stands for its fields. Raises InvalidJob for positional
    arguments without a name, if the type says something about arguments.
    """
    args, kwargs = call.args, dict(call.kwargs)
    if not type.parameters and not kwargs and len(args) == 1 and isinstance(args[0], dict):
        return {str(name): value for name, value in args[0].items()}
    if not type.parameters:
        if args and (type.argument_schema is not None or type.sensitive):
            raise InvalidJob("args[0]: has no name; give it by name, or name it in the type's `parameters`")
        return kwargs
    rest = type.parameters[-1][1:] if type.parameters[-1].startswith("*") else None
    names = type.parameters[:-1] if rest else type.parameters
    if len(args) > len(names) and rest is None:
        raise InvalidJob(f"args[{len(names)}]: is one too many; the type takes {', '.join(names)}")
    for index, name in enumerate(names[: len(args)]):
        if name in kwargs:
            raise InvalidJob(f"args[{index}]: '{name}' is given by name as well")
        kwargs[name] = args[index]
    if rest:
        kwargs[rest] = list(args[len(names) :])
    return kwargs


def not_json(value: Any, path: tuple[str | int, ...], *, exact: bool) -> str | None:
    """Why a value can't be written as JSON, with its place; None if it can. `exact`: tuples count as no lists."""
    if value is None or isinstance(value, (str, bool, int)):
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{path_of(path)}: {value} isn't JSON"
    if isinstance(value, list) or (isinstance(value, tuple) and not exact):
        return next((p for i, v in enumerate(value) if (p := not_json(v, (*path, i), exact=exact))), None)
    if isinstance(value, dict):
        if any(not isinstance(name, str) for name in value):
            return f"{path_of(path)}: an object's names must be text in JSON"
        return next((p for n, v in value.items() if (p := not_json(v, (*path, n[:80]), exact=exact))), None)
    return f"{path_of(path)}: {type(value).__name__} isn't JSON"


def checked(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """Raises InvalidJob with a sentence for each place where the arguments don't fit; never a value itself."""
    from jsonschema import Draft202012Validator
    from referencing import Registry

    validator = Draft202012Validator(
        schema, format_checker=Draft202012Validator.FORMAT_CHECKER, registry=Registry()
    )  # the empty registry: nothing is ever fetched
    found = sorted(validator.iter_errors(_plain(arguments)), key=lambda error: [str(part) for part in error.path])
    problems = tuple(dict.fromkeys(text for error in found for text in _sentences(error)))
    if problems:
        raise InvalidJob("; ".join(problems[:_SHOWN]) + (" ..." if len(problems) > _SHOWN else ""), problems)


def schema_problem(schema: Mapping[str, Any]) -> str | None:
    """Why this is no JSON Schema that we can use."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return f"{path_of(error.path) or 'it'}: isn't JSON Schema (2020-12): {error.message[:200]}"
    for reference in _references(schema):
        if not _resolves(reference, schema):
            return f"$ref: '{reference[:80]}' isn't found; only places in this schema can be named, such as '#/$defs/x'"
    return None


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in ("$ref", "$dynamicRef") and isinstance(inner, str):
                yield inner
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def _resolves(reference: str, schema: Any) -> bool:
    if not reference.startswith("#"):
        return False
    here = schema
    for part in reference[1:].split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(here, dict) or part not in here:
            return False
        here = here[part]
    return reference in ("#",) or reference.startswith("#/")


def _sentences(error: Any) -> list[str]:
    """An error of jsonschema in our words: its own texts repeat the value, which may be a secret."""
    place = path_of(error.absolute_path)
    before = f"{place}: " if place else ""
    wanted, value = error.validator_value, error.instance
    if error.validator == "required":
        return [f"{place + '.' if place else ''}{name}: is required" for name in wanted if name not in value]
    if error.validator in ("additionalProperties", "unevaluatedProperties") and isinstance(value, dict):
        known = error.schema.get("properties", {})
        extra = [str(name)[:80] for name in value if name not in known]
        return [f"{before}unknown argument '{name}'" for name in extra[:_SHOWN]]
    if error.validator == "type":
        names = " or ".join(wanted) if isinstance(wanted, list) else wanted
        return [f"{place or 'the arguments'}: must be of type {names}, not {kind_of(value)}"]
    if error.validator in ("anyOf", "oneOf"):
        return [f"{place or 'the arguments'}: must fit {'one' if error.validator == 'oneOf' else 'at least one'} of "
                f"{len(wanted)} schemas ({error.validator})"]  # fmt: skip
    said = json.dumps(wanted, ensure_ascii=False, default=str)
    return [f"{place or 'the arguments'}: breaks {error.validator}: {said[:80]}{'...' if len(said) > 80 else ''}"]


def variables(arguments: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Variable -> (argument, text) of all that can be one: scalars with a plain name. Raises InvalidJob.

    Numbers in full, `true` and `false`; null, lists, objects and texts beyond LONGEST aren't there.
    """
    made: dict[str, tuple[str, str]] = {}
    for name, value in arguments.items():
        text = text_of(value)
        if text is None or not _NAME.fullmatch(name):
            continue
        variable = PREFIX + name.upper()
        if variable in made:
            raise InvalidJob(
                f"{name}: would be ${variable}, as '{made[variable][0]}' is; use names that differ in more"
            )
        made[variable] = name, text
    return made


def text_of(value: Any) -> str | None:
    """A scalar as a variable's text; None for what isn't fit for one."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return json.dumps(value)
    if not isinstance(value, str) or "\0" in value:
        return None
    try:
        return value if len(value.encode()) <= LONGEST else None
    except UnicodeEncodeError:
        return None


def texts_in(value: Any) -> Iterator[str]:
    """All that must not be shown of a sensitive argument: its texts and numbers."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from texts_in(inner)
    elif isinstance(value, str):
        yield value
    elif isinstance(value, bytes):
        yield value.decode("utf-8", "replace")
    elif isinstance(value, Sequence):
        for inner in value:
            yield from texts_in(inner)
    elif not isinstance(value, bool) and (text := text_of(value)) is not None:
        yield text


def _plain(value: Any) -> Any:
    """Tuples as lists, as jsonschema knows them."""
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value
