"""Closed pydantic models, and their validation errors in words that a user can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError


class Closed(BaseModel):
    """A frozen value that refuses unknown fields and never converts one type into another."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        populate_by_name=True,
        hide_input_in_errors=True,  # which may hold secrets
    )


_WANTED = {
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "dict_type": "must be an object (name: value)",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "missing": "is required",
}


def kind_of(value: object) -> str:
    """What a JSON reader would call this value."""
    if value is None:
        return "null"
    for types, name in (
        (bool, "true/false"),
        ((int, float), "a number"),
        ((str, bytes), "text"),
        (dict, "an object"),
        ((list, tuple), "a list"),
    ):
        if isinstance(value, types):
            return name
    return type(value).__name__


def path_of(location: Iterable[str | int]) -> str:
    """`('files', 0, 'mode')` -> `files[0].mode`."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path


def nearest(name: str, known: Iterable[str]) -> str:
    """`: did you mean 'image'?`, or what there is to choose from."""
    names = sorted(known)
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    return f": did you mean '{close[0]}'?" if close else f"; known here: {', '.join(names)}"


def problems_of(error: ValidationError, model: type[BaseModel]) -> tuple[str, ...]:
    """One sentence for each problem, its field first; never the offending value itself, which may be a secret."""
    return tuple(dict.fromkeys(_sentence(e, model) for e in error.errors(include_url=False)))


def _sentence(error: Any, model: type[BaseModel]) -> str:
    location = error["loc"]
    if error["type"] == "extra_forbidden":
        where = _model_at(model, location[:-1])
        known = [field.alias or name for name, field in where.model_fields.items()] if where else []
        holder = path_of(location[:-1])
        name = str(location[-1])[:80]
        return f"{holder + ': ' if holder else ''}unknown field '{name}'{nearest(name, known)}"
    path = path_of(location)
    return (f"{path}: " if path else "") + _wrong(error)


def _wrong(error: Any) -> str:
    kind = error["type"]
    if kind == "missing":
        return "is required"
    if kind in _WANTED:
        hint = "; put it in quotes" if kind == "string_type" and kind_of(error["input"]) == "a number" else ""
        return f"{_WANTED[kind]}, not {kind_of(error['input'])}{hint}"
    message: str = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return message if kind == "value_error" else message[:1].lower() + message[1:]


def _model_at(model: type[BaseModel], location: Iterable[str | int]) -> type[BaseModel] | None:
    here: type[BaseModel] | None = model
    for part in location:
        if isinstance(part, int) or here is None:
            continue
        field = here.model_fields.get(str(part)) or next(
            (f for f in here.model_fields.values() if f.alias == part or f.validation_alias == part), None
        )
        if field is None:
            continue
        here = _model_in(field.annotation)
    return here


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in get_args(annotation):
        found = _model_in(inner)
        if found is not None:
            return found
    return None
