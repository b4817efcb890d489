"""Reads the API's JSON as far as we need it: an object is 5 KB or more, and we look at a dozen of its fields.

What isn't named here is passed over without making a Python object of it, which is half of the work. Whatever doesn't
fit is read as a whole, so that a field with an odd type is no reason to see nothing at all.
"""

from __future__ import annotations

from typing import Any

from pydantic_core import CoreSchema, SchemaValidator, from_json
from pydantic_core.core_schema import (
    any_schema,
    dict_schema,
    float_schema,
    int_schema,
    list_schema,
    nullable_schema,
    str_schema,
    typed_dict_field,
    typed_dict_schema,
)


def _object(**fields: CoreSchema) -> CoreSchema:
    """Any of these fields, each perhaps null, beside whatever else."""
    known = {name: typed_dict_field(nullable_schema(schema), required=False) for name, schema in fields.items()}
    return typed_dict_schema(known, extra_behavior="ignore")


_TEXT, _NUMBER = str_schema(), float_schema()
_TEXTS = dict_schema(_TEXT, nullable_schema(_TEXT))
_STATE = _object(
    reason=_TEXT, message=_TEXT, exitCode=int_schema(), signal=int_schema(), startedAt=_TEXT, finishedAt=_TEXT
)
_CONTAINERS = list_schema(_object(name=_TEXT, state=dict_schema(_TEXT, nullable_schema(_STATE))))
_STATUS = _object(
    phase=_TEXT,
    reason=_TEXT,
    message=_TEXT,
    conditions=list_schema(_object(type=_TEXT, status=_TEXT, reason=_TEXT, message=_TEXT)),
    containerStatuses=_CONTAINERS,
    initContainerStatuses=_CONTAINERS,
)
_META = _object(
    name=_TEXT,
    uid=_TEXT,
    resourceVersion=_TEXT,
    labels=_TEXTS,
    annotations=_TEXTS,
    deletionTimestamp=_TEXT,
    deletionGracePeriodSeconds=_NUMBER,
)
_LIMITS = _object(name=_TEXT, resources=_object(limits=_object(memory=_TEXT)))
_SPEC = _object(nodeName=_TEXT, containers=list_schema(_LIMITS), initContainers=list_schema(_LIMITS))
_PARTS = {"metadata": _META, "spec": _SPEC, "status": _STATUS}
_POD = SchemaValidator(_object(**_PARTS))
_PAGE = SchemaValidator(_object(metadata=dict_schema(_TEXT, any_schema()), items=list_schema(_object(**_PARTS))))
_EVENT = SchemaValidator(_object(type=_TEXT, object=_object(**_PARTS)))


def whole(data: bytes) -> dict[str, Any]:
    """An object with all that is in it. Raises ValueError if it is none."""
    found = from_json(data) if data else {}
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found


def nothing(data: bytes) -> None:
    """An object that nobody wants to look at. Raises ValueError if it can't be one."""
    if data and not data.lstrip().startswith(b"{"):
        raise ValueError("not an object")


def pod(data: bytes) -> dict[str, Any]:
    """A pod, with what `slim` needs. Raises ValueError if it is no JSON object."""
    return _read(_POD, data)


def page(data: bytes) -> dict[str, Any]:
    """A page of a list of pods. Raises ValueError if it is no JSON object."""
    return _read(_PAGE, data)


def event(line: bytes) -> dict[str, Any]:
    """An event of a watch of pods; of an error, whose object is no pod, all. Raises ValueError if it is no object."""
    return _read(_EVENT, line)


def identity(item: Any) -> tuple[str, str, str]:
    """Name, uid and version of an object that may have any shape; "" for what isn't there."""
    meta = item.get("metadata") if isinstance(item, dict) else None
    found = [meta.get(key) if isinstance(meta, dict) else None for key in ("name", "uid", "resourceVersion")]
    name, uid, version = (value if isinstance(value, str) else "" for value in found)
    return name, uid, version


def _read(validator: SchemaValidator, data: bytes) -> dict[str, Any]:
    try:
        found: dict[str, Any] = validator.validate_json(data or b"{}")
    except ValueError:
        return whole(data)
    return found
