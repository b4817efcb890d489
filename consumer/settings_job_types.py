"""The section `job_types` of the settings: what each name that a producer may call is run as."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator

from enqueue.closed import kind_of
from enqueue.job import JOB_NAME, Job

_PARAMETER = re.compile(r"\*?[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_DOTTED = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)+")


def _type_name(name: str) -> str:
    if not name or len(name) > 200 or any(c.isspace() for c in name):
        raise ValueError("must be what producers call: a function's path or a job type, at most 200 characters")
    if name == JOB_NAME:
        raise ValueError("is longshore's own job; jobs.types_only refuses it")
    return name


def _parameter(name: str) -> str:
    if not _PARAMETER.fullmatch(name):
        raise ValueError("must be the name of an argument, such as 'source', or '*rest' for all that follow")
    return name


TypeName = Annotated[str, AfterValidator(_type_name)]
Parameter = Annotated[str, AfterValidator(_parameter)]


class JobType(Job, defer_build=True):
    """All fields of a Job, as the operator sets them, and what becomes of the arguments."""

    python: bool | str = Field(
        False, description="Runs the function of that name in the job's image, by `python3` or by this interpreter."
    )
    function: str | None = Field(None, description="The function's path, if the type's name isn't it.")
    parameters: tuple[Parameter, ...] = Field(
        (), description="Names of the positional arguments; the last one may be '*rest'."
    )
    argument_schema: dict[str, Any] | None = Field(
        None, alias="schema", description="JSON Schema of the arguments by name, an object."
    )
    sensitive: tuple[str, ...] = Field((), description="Names of arguments that are masked and kept out of pod specs.")
    unpickle: bool = Field(
        False, description="Payloads with objects of the image's own classes are unpickled in the job."
    )
    result: Literal["json", "ignore"] = Field("json", description="What becomes of the function's return value.")
    profile: Literal["restricted", "baseline", "privileged"] | None = Field(
        None, description="Security profile of the type's pods: kubernetes.profile if not given."
    )

    @field_validator("parameters", "sensitive", mode="before")
    @classmethod
    def _lists_of_names(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"must be a list of names, not {kind_of(value)}")
        return tuple(value)

    @field_validator("argument_schema")
    @classmethod
    def _sound_schema(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None:
            from consumer.arguments import schema_problem

            if problem := schema_problem(value):
                raise ValueError(problem)
        return value

    @field_validator("function")
    @classmethod
    def _path(cls, value: str | None) -> str | None:
        if value is not None and not _DOTTED.fullmatch(value):
            raise ValueError("must be a function's path, such as 'app.tasks.resize'")
        return value

    def _one_way(self) -> None:
        if any(name.startswith("*") for name in self.parameters[:-1]):
            raise ValueError("parameters: only the last one may begin with '*'")
        if len({name.lstrip("*") for name in self.parameters}) < len(self.parameters):
            raise ValueError("parameters: the same name stands there twice")
        if not self.python:
            for field in ("function", "unpickle"):
                if getattr(self, field):
                    raise ValueError(f"{field}: is for types with `python: true`")
            super()._one_way()
        elif self.commands or self.entrypoint or self.args:
            raise ValueError("python: can't stand beside commands, entrypoint or args; it runs a function")
        elif self.unpickle and (self.argument_schema is not None or self.sensitive):
            raise ValueError("unpickle: can't stand beside schema or sensitive: such arguments can't be looked into")
