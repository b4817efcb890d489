"""Every setting by name: its environment variable, flag, type, default and meaning. Made from the models.

`docs/settings.md` is this table; `python -m enqueue.schema` writes and checks it. What isn't in it is no setting, so
it is also by this table that an unknown LONGSHORE_ variable is refused.
"""

from __future__ import annotations

import difflib
import json
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from consumer.reload import RELOADABLE
from consumer.section import Section

PREFIX = "LONGSHORE_"

_UNITS = (
    (re.compile(r"\bseconds\b", re.IGNORECASE), "s"),
    (re.compile(r"\bbytes\b", re.IGNORECASE), "bytes"),
    (re.compile(r"\ba second\b"), "1/s"),
)
_IN_A_JOB = re.compile(r"LONGSHORE_(JOB_ID|ATTEMPT|QUEUE|OUTCOME|ARGS|ARG_\w+|CODE)")
_LINK = re.compile(r"LONGSHORE_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
"""What Kubernetes gives a pod for a Service of our name."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `structured`: its environment variable holds JSON."""

    name: str
    type: str
    default: str
    unit: str
    description: str
    structured: bool

    @property
    def variable(self) -> str:
        """The environment variable."""
        return PREFIX + self.name.replace(".", "_").upper()

    @property
    def reloadable(self) -> bool:
        """May change while the consumer runs."""
        return self.name in RELOADABLE


def all_settings(model: type[BaseModel]) -> Iterator[Setting]:
    """In the order of the models: first those without a section."""
    for name, field in model.model_fields.items():
        if _section(field) is None:
            yield _setting(name, field)
    for name, field in model.model_fields.items():
        for inner, inside in section.model_fields.items() if (section := _section(field)) else ():
            yield _setting(f"{name}.{inner}", inside)


def problems_in(environment: Mapping[str, str], model: type[BaseModel]) -> list[str]:
    """A sentence for each LONGSHORE_ variable that is no setting, or whose value must be JSON and isn't."""
    given = {name.upper(): value for name, value in environment.items() if name.upper().startswith(PREFIX)}
    if not given:
        return []
    known = {setting.variable: setting for setting in all_settings(model)}
    sections = {PREFIX + name.upper() for name, field in model.model_fields.items() if _section(field) is not None}
    in_a_job = {"LONGSHORE_JOB_ID", "LONGSHORE_ATTEMPT"} <= given.keys()
    found = []
    for name, value in sorted(given.items()):
        setting = known.get(name)
        if setting is not None and not setting.structured:
            continue
        if setting is not None or name in sections or name.startswith(f"{PREFIX}JOB_TYPES_"):
            if not _is_json(value):
                example = (
                    '["a", "b"]' if setting is not None and setting.type.startswith("list") else '{"name": "value"}'
                )
                found.append(f"{name[:80]}: must be JSON in the environment, such as '{example}'")
        elif not (_is_foreign(name, value) or (in_a_job and _IN_A_JOB.fullmatch(name))):
            found.append(f"{name[:80]}: there is no such setting{_near(name, known)}")
    return found


def _is_foreign(name: str, value: str) -> bool:
    link = name.endswith("_PORT") and value.startswith(("tcp://", "udp://", "sctp://"))
    return link or name.startswith(f"{PREFIX}TEST_") or _LINK.fullmatch(name) is not None


def _near(name: str, known: Iterable[str]) -> str:
    words = [variable.removeprefix(PREFIX) for variable in known]
    close = difflib.get_close_matches(name.removeprefix(PREFIX), words, n=1, cutoff=0.5)
    return f": did you mean '{PREFIX}{close[0]}'?" if close else "; docs/settings.md lists them all"


def _setting(name: str, field: FieldInfo) -> Setting:
    text, structured = _type_of(field.annotation, name)
    text += _bounds(field)
    unit = ""
    if "number" in text:
        unit = next((unit for pattern, unit in _UNITS if pattern.search(field.description or "")), "")
    return Setting(name, text, _default(field), unit, field.description or "", structured and name != "queues")


def _type_of(annotation: Any, name: str = "") -> tuple[str, bool]:
    """In words, and whether it is a list or a map."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_of(inner[0])
    if origin is Literal:
        return ", ".join(f"`{word}`" for word in inner), False
    if origin in (Union, types.UnionType):
        kinds = [_type_of(kind) for kind in inner if kind is not type(None)]
        return " or ".join(text for text, _ in kinds), all(structured for _, structured in kinds)
    if origin is tuple:
        return f"list of {_plural(_type_of(inner[0])[0])}", True
    if origin is dict:
        return f"map of {_plural(_type_of(inner[1])[0])}", True
    plain = {
        bool: "true/false",
        int: "whole number",
        float: "number",
        str: "text",
        SecretStr: "text",
        Path: "path",
        Any: "values",
    }
    if annotation in plain:
        return plain[annotation], False
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", annotation.__name__).lower(), True
    raise TypeError(f"{name}: the table has no word for the type {annotation}")


def _plural(word: str) -> str:
    return word if word.endswith("s") or word == "text" else word + "s"


def _bounds(field: FieldInfo) -> str:
    limits = {k: getattr(m, k) for m in field.metadata for k in ("ge", "gt", "le", "lt") if hasattr(m, k)}
    if "ge" in limits and "le" in limits:
        return f", {limits['ge']} to {limits['le']}"
    words = {"ge": "at least {}", "gt": "more than {}", "le": "at most {}", "lt": "less than {}"}
    return "".join(f", {words[kind].format(f'{value:g}')}" for kind, value in limits.items())


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "host name and process id"
    value = field.default
    if value is None:
        return ""
    if isinstance(value, bool | tuple | dict):
        return f"`{json.dumps(value)}`"
    return f"`{value}`"


def _section(field: FieldInfo) -> type[Section] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), (dict, list))
    except ValueError:
        return False
