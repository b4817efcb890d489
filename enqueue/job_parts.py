"""What a Job is made of, but for what is of its pod."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, AliasChoices, Field, field_validator, model_validator

from enqueue.closed import Closed, kind_of
from enqueue.pod import DnsName, ImageReference

DAY = 86_400
"""Seconds."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_RESERVED = re.compile(r"LD_[A-Z_]+|LONGSHORE_[A-Z0-9_]*|KUBERNETES_[A-Z0-9_]*", re.ASCII)


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid Unicode: it holds half of a surrogate pair") from None
    return text


def _environment_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("must be a name of letters, digits and _ that doesn't begin with a digit, such as 'API_TOKEN'")
    if _RESERVED.fullmatch(name):
        raise ValueError("is reserved: names that begin with LD_, LONGSHORE_ or KUBERNETES_ can't be set by a job")
    return name


def _file_path(path: str) -> str:
    parts = path.split("/")
    if not path or path.endswith("/") or ".." in parts or "." in parts or "" in parts[1:] or path == "/":
        raise ValueError("must be a plain path of a file, such as 'config/app.yaml' (no '..', no empty part)")
    if len(path) > 1024 or any(len(p.encode()) > 255 for p in parts):
        raise ValueError("is too long")
    return path


def _mode(value: str | int) -> str | int:
    if isinstance(value, int) and not 0 <= value <= 0o777:
        raise ValueError('must lie between 0 and 511 (0777); as text it is read as octal: "0755"')
    if isinstance(value, str) and not re.fullmatch(r"(?:0o?)?[0-7]{3}", value):
        raise ValueError('must be octal permissions in quotes, such as "0644" or "0755"')
    return value


def listed(value: object) -> object:
    """A list as a tuple. Raises ValueError for anything else."""
    if isinstance(value, (list, tuple)):
        return tuple(value)
    raise ValueError(f"must be a list, not {kind_of(value)}")


Text = Annotated[str, AfterValidator(_no_nul)]
EnvironmentName = Annotated[str, AfterValidator(_environment_name)]
Seconds = Annotated[float, Field(gt=0, le=30 * DAY, allow_inf_nan=False)]
Command = Annotated[str, AfterValidator(_no_nul)]
SinkName = Literal["record", "file", "console", "s3"]
"""Where a log may go."""


class Variable(Closed):
    """An environment variable that may be a secret."""

    name: EnvironmentName = Field(validation_alias=AliasChoices("name", "key"))
    value: Text = Field(repr=False)
    sensitive: bool = Field(False, description="Kept out of pod specs and masked in logs, variables and messages.")
    scope: Literal["all", "init", "main"] = Field(
        "all", description="Which steps see it: both, the init step, or the main one."
    )
    sealed: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{16}$",
        description="The key for which `value` is a sealed box, in base64: only consumers that have it can read it.",
    )

    @model_validator(mode="after")
    def _sealed_is_sensitive(self) -> Variable:
        if self.sealed is not None and not self.sensitive:
            raise ValueError("sealed: can't be without sensitive: true")
        return self


class SecretReference(Closed):
    """An environment variable taken from a Kubernetes Secret that the operator allows."""

    name: EnvironmentName = Field(description="The environment variable.")
    secret: DnsName = Field(description="The Secret's name, in the namespace of the jobs.")
    key: str = Field(pattern=r"^[-._a-zA-Z0-9]{1,253}$", description="The key in the Secret.")


class File(Closed):
    """A file laid down before the job starts."""

    path: Annotated[str, AfterValidator(_file_path)] = Field(
        validation_alias=AliasChoices("path", "name"), description="Relative to the working directory, or absolute."
    )
    contents: Text = Field(repr=False)
    mode: Annotated[str | int, AfterValidator(_mode)] = Field(
        "0644", description='Octal permissions in quotes, such as "0755".'
    )

    @property
    def permissions(self) -> int:
        """The mode as a number."""
        return self.mode if isinstance(self.mode, int) else int(self.mode.removeprefix("0o"), 8)


class InitStep(Closed):
    """Runs before the job, in the same working directory; if it fails, the job fails."""

    image: ImageReference | None = Field(None, description="The job's image, if not given.")
    commands: tuple[Command, ...] = Field(min_length=1, description="One script; stops at the first failure.")

    _commands = field_validator("commands", mode="before")(lambda cls, v: listed(v))


class Retention(Closed):
    """How long the Record and the log are kept after the end, in seconds."""

    success: int | None = Field(None, ge=60, le=365 * DAY)
    failure: int | None = Field(None, ge=60, le=365 * DAY)


class Outputs(Closed):
    """Files that the job leaves in the folder $LONGSHORE_OUTPUTS are kept."""

    include: tuple[Text, ...] = Field(
        (), max_length=100, description="Patterns of names, such as '*.xml'; all, if none."
    )
    max_bytes: int | None = Field(None, ge=1, description="All together; the operator's bound, if not given.")

    _include = field_validator("include", mode="before")(lambda cls, v: listed(v))


class Limit(Closed):
    """At most so many jobs of a key run at once, whichever consumers run them."""

    key: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/=-]{0,99}$", description="What the jobs share.")
    concurrency: int = Field(
        1, ge=1, le=1000, description="This job starts only while fewer than so many jobs of the key run."
    )
