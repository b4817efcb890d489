"""Where a name that a producer called becomes a Job: `longshore.job` by its one argument, all others by `job_types`.

Pure: nothing is imported or executed from a payload. What a function of the image gets is decided here, run by
`consumer/call_python.py` in the job, and its end is read by `consumer/returned.py`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import pickle
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from consumer.arguments import checked, named, not_json, texts_in, variables
from consumer.settings_job_types import JobType
from consumer.typed import Handed, TypedJob
from enqueue.closed import nearest
from enqueue.errors import InvalidJob
from enqueue.job import JOB_NAME, Job
from enqueue.job_parts import Variable
from enqueue.wire.call import Call, the_job

ARGUMENTS, CODE = "LONGSHORE_ARGS", "LONGSHORE_CODE"
_LOADER = f"import os, runpy; runpy.run_path(os.environ['{CODE}'], run_name='__main__')"


class JobTypes:
    """The names that this consumer runs. `only`: `longshore.job` is refused."""

    def __init__(self, types: Mapping[str, JobType], *, only: bool = False) -> None:
        self._types, self._only = types, only
        self._patterns = [(_pattern(name), name) for name in types if "*" in name]

    def job(self, call: Call) -> Job:
        """The Job of a call. Raises InvalidJob with a sentence that names what is wrong and the way out."""
        if call.name == JOB_NAME and self._only:
            raise InvalidJob(f"{call.word}: '{JOB_NAME}' isn't run here, only the operator's types{self._known('')}")
        if call.name == JOB_NAME or not self._types:
            return the_job(call)
        name = self.find(call.name)
        if name is None:
            known = self._known(call.name)
            raise InvalidJob(
                f"{call.word}: {call.name[:80]!r} is no job type here{known}; the operator adds one to `job_types`"
            )
        try:
            return typed_job(call, name, self._types[name])
        except InvalidJob as error:
            raise InvalidJob(f"{call.name[:80]}: {error}", error.problems) from None
        except RecursionError:
            raise InvalidJob(f"{call.name[:80]}: the arguments are nested too deeply") from None

    def find(self, name: str) -> str | None:
        """The type's name in the settings: the same one, or the first pattern that fits."""
        if name in self._types and "*" not in name:
            return name
        return next((found for pattern, found in self._patterns if pattern.fullmatch(name)), None)

    def _known(self, name: str) -> str:
        return nearest(name, [*self._types, *([] if self._only else [JOB_NAME])])


def typed_job(call: Call, name: str, type: JobType) -> TypedJob:
    """The Job of one call of one type. Raises InvalidJob."""
    arguments = {} if call.pickled else named(call, type)
    if call.pickled and not type.unpickle:
        raise InvalidJob(f"the payload is refused: {call.problem}; give plain values")
    if type.argument_schema is not None:
        checked(arguments, type.argument_schema)
    return _made(call, name, type, arguments)


def sample(name: str, type: JobType) -> TypedJob:
    """The Job of a call without arguments, whatever the type says of them: to try a type with."""
    return _made(Call(name, "name"), name, type, {})


def _made(call: Call, name: str, type: JobType, arguments: Mapping[str, Any]) -> TypedJob:
    hidden = tuple(text for key in type.sensitive if key in arguments for text in texts_in(arguments[key]))
    document: dict[str, Any] = {"v": 1, "name": call.name} | _values(call, exact=bool(type.python))
    made: dict[str, Any] = {field: getattr(type, field) for field in Job.model_fields}
    files = []
    if type.python:
        document |= {"function": type.function or call.name, "guarded": "*" in name, "result": type.result}
        files = [Handed(CODE, "code.py", _code())]
        made |= {
            "entrypoint": (type.python if isinstance(type.python, str) else "python3", "-c", _LOADER),
            "env": {"PYTHONUNBUFFERED": "1"} | type.env,
        }
    else:
        given = variables(arguments)
        plain = {variable: text for variable, (key, text) in given.items() if key not in type.sensitive}
        secret = tuple(
            Variable.model_construct(name=variable, value=text, sensitive=True, scope="all")
            for variable, (key, text) in given.items()
            if key in type.sensitive
        )
        made |= {"env": type.env | plain, "variables": type.variables + secret}
    files.append(Handed(ARGUMENTS, "args.json", json.dumps(document)))
    # Not validated once more: a job can't set names that begin with LONGSHORE_, we can.
    return TypedJob.model_construct(
        **made,
        type=name,
        call=_digest(call),
        handed=tuple(files),
        hidden=hidden,
        returns=bool(type.python),
        profile=type.profile,
    )


def _values(call: Call, *, exact: bool) -> dict[str, Any]:
    """The arguments as the job's file has them. Raises InvalidJob for what a command can't be given."""
    if call.pickled:
        return {"pickle": base64.b64encode(call.pickled).decode()}
    problem = not_json(list(call.args), ("args",), exact=exact) or not_json(call.kwargs, ("kwargs",), exact=exact)
    if problem is None:
        return {"args": list(call.args), "kwargs": dict(call.kwargs)}
    if not exact:
        raise InvalidJob(f"{problem}, and a command is given JSON")
    plain = pickle.dumps((tuple(call.args), dict(call.kwargs)), protocol=4)
    return {"plain": base64.b64encode(plain).decode()}


def _digest(call: Call) -> str:
    known = call.pickled or json.dumps(_ordered([call.args, call.kwargs])).encode()
    return hashlib.sha256(call.name.encode("utf-8", "surrogatepass") + b"\0" + known).hexdigest()


def _ordered(value: Any) -> Any:
    """The same text for the same value in every process."""
    if isinstance(value, Mapping):
        return sorted([repr(name), _ordered(inner)] for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        return [_ordered(inner) for inner in value]
    return sorted(map(repr, value)) if isinstance(value, (set, frozenset)) else repr(value)


def _pattern(name: str) -> re.Pattern[str]:
    """`*` stands for any word without a dot: a pattern must not reach into what a module has imported."""
    return re.compile(r"[^.\s]+".join(re.escape(part) for part in name.split("*")))


@cache
def _code() -> str:
    return (Path(__file__).parent / "call_python.py").read_text()
