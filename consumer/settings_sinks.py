"""Where logs and outputs go besides the Records: the sections `files`, `console` and `s3` of the settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from consumer.section import Section

_PLACE = re.compile(r"[^{}]*(?:\{(?:queue|job|attempt)\}[^{}]*)*")


def _template(text: str) -> str:
    if not _PLACE.fullmatch(text):
        raise ValueError("may hold {queue}, {job} and {attempt}, and no other braces")
    if "{job}" not in text or "{attempt}" not in text:
        raise ValueError("must hold {job} and {attempt}: each attempt has a log of its own")
    if any(part in ("", ".", "..") for part in text.split("/")) or "\0" in text:
        raise ValueError("must be a plain relative path, such as '{queue}/{job}/{attempt}.log'")
    return text


Template = Annotated[str, AfterValidator(_template)]
LOG_PATH = "{queue}/{job}/{attempt}.log"


class Files(Section):
    """The sink `file`, and outputs without S3."""

    directory: Path | None = Field(None, description="Where logs and outputs are written; private to our user.")
    path: Template = Field(LOG_PATH, description="A log's path in there, of {queue}, {job} and {attempt}.")
    max_age: float = Field(0, ge=0, description="Seconds after which what was written there is deleted; 0: it is kept.")


class Outputs(Section):
    """What becomes of the files that jobs leave in $LONGSHORE_OUTPUTS."""

    store: Literal["s3", "file"] | None = Field(
        None, description="Where they are kept: s3, or file (in files.directory). Jobs that ask are refused without."
    )
    path: Template = Field(
        "{queue}/{job}/{attempt}.outputs", description="Their folder there, of {queue}, {job} and {attempt}."
    )
    max_bytes: int = Field(256 * 1024 * 1024, ge=1, description="Bytes that are kept of a job's files together.")
    max_files: int = Field(200, ge=1, le=2000, description="Files that are kept of a job.")
    seconds: float = Field(300, gt=0, description="Seconds that collecting a job's files may take.")


class Console(Section):
    """The sink `console`: logs on our standard output."""

    format: Literal["prefix", "plain", "json"] = Field(
        "prefix", description="Lines with the job's queue, id and attempt before them, as they are, or as JSON objects."
    )


class S3(Section):
    """The sink `s3`, and outputs. Credentials come from AWS_ACCESS_KEY_ID and its like, or ~/.aws."""

    bucket: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", description="The bucket.")
    prefix: str = Field("", pattern=r"^[A-Za-z0-9._/-]*$", description="Before each object's key, such as 'jobs/'.")
    endpoint: str | None = Field(
        None, pattern=r"^https?://[^/@?#]+/?$", description="URL of a server that isn't AWS; no user, no path."
    )
    region: str | None = Field(None, description="AWS_REGION or us-east-1 if not given.")
    path_style: bool | None = Field(
        None, description="The bucket in the path, not in the host's name; so with an endpoint, if not given."
    )
    gzip: bool = Field(False, description="Logs of less than 5 MiB are stored compressed, with Content-Encoding gzip.")
    log_path: Template = Field(LOG_PATH, description="A log's key after the prefix, of {queue}, {job} and {attempt}.")

    @model_validator(mode="after")
    def _whole(self) -> S3:
        if "//" in self.prefix or self.prefix.startswith("/") or ".." in self.prefix.split("/"):
            raise ValueError("prefix: must be a plain path, such as 'jobs/'")
        return self
