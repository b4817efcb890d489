"""The Job: what a producer asks for. A closed value: unknown fields are refused, types are never guessed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from enqueue.closed import Closed, problems_of
from enqueue.errors import InvalidJob
from enqueue.job_parts import (
    DAY,
    Command,
    EnvironmentName,
    File,
    InitStep,
    Limit,
    Outputs,
    Retention,
    Seconds,
    SecretReference,
    SinkName,
    Text,
    Variable,
    listed,
)
from enqueue.pod import (
    DnsName,
    ImageReference,
    Key,
    LabelValue,
    OwnKey,
    Resources,
    Toleration,
)

JOB_NAME = "longshore.job"
"""The name of the queue job: RQ's function string and Faktory's job type. Its one argument is the Job."""

MAX_JOB_BYTES = 1_000_000
"""The largest accepted payload in bytes, as JSON. Larger input belongs in object storage or in the image."""


class Job(Closed):
    """What a producer asks for.

    Either `commands` (one shell script that stops at the first failure) or `entrypoint` and `args`.
    Times are in seconds. `Job(...)` raises pydantic's ValidationError; `Job.load` InvalidJob with plain sentences.
    """

    image: ImageReference | None = Field(
        None, description="Container image; the process executor runs on the host instead."
    )
    commands: tuple[Command, ...] = Field((), description="One script, a command an entry; stops at the first failure.")
    entrypoint: tuple[Text, ...] = Field(
        (), description="Runs this instead of the image's entrypoint, without a shell."
    )
    args: tuple[Text, ...] = Field((), description="Arguments of the entrypoint.")
    shell: Text = Field(
        "/bin/sh", description="Runs `commands`; a POSIX shell with its options, such as '/bin/bash -o pipefail'."
    )
    workdir: Text | None = Field(None, description="Working directory; the executor's own, if not given.")
    env: dict[EnvironmentName, Text] = Field(
        default_factory=dict, description="Environment in plain text; secrets belong in `variables`."
    )
    variables: tuple[Variable, ...] = Field(())
    secrets: tuple[SecretReference, ...] = Field(())
    unmasked_variables: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,256}$")], ...] = Field(
        (), max_length=100, description="Outcome variables that are handed back as they are, secrets and all."
    )
    files: tuple[File, ...] = Field(())
    init: InitStep | None = None
    resources: Resources | None = None
    timeout: Seconds | None = Field(None, description="The main step may run this long.")
    start_timeout: Seconds | None = Field(None, description="It must have started after this long.")
    retries: int | None = Field(
        None, ge=0, le=1000, description="Tries after the first when the job fails; None: as the queue says."
    )
    infrastructure_retries: int = Field(
        0, ge=0, le=1000, description="Tries after the first when the infrastructure fails a started job."
    )
    grace: float | None = Field(
        None, ge=0, le=3600, allow_inf_nan=False, description="Seconds between TERM and KILL when the job is stopped."
    )
    labels: dict[OwnKey, LabelValue] = Field(default_factory=dict)
    annotations: dict[OwnKey, Text] = Field(default_factory=dict)
    service_account: DnsName | None = None
    image_pull_policy: Literal["Always", "IfNotPresent"] | None = None
    image_pull_secrets: tuple[DnsName, ...] = Field((), description="Secrets with credentials for registries.")
    node_selector: dict[Key, LabelValue] = Field(default_factory=dict, description="Labels that the node must have.")
    tolerations: tuple[Toleration, ...] = ()
    runtime_class: DnsName | None = None
    priority_class: DnsName | None = None
    retention: Retention = Retention()
    count_output: bool = Field(
        False, description="The job counts its own output, so that its log can be told to be complete."
    )
    tags: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/=-]{0,99}$")], ...] = Field(
        (), max_length=20, description="Words by which the job can be listed."
    )
    logs: tuple[SinkName, ...] | None = Field(
        None, description="Where its log goes, of what the operator allows: record, file, console, s3."
    )
    outputs: Outputs | None = Field(None, description="Keep what it leaves in $LONGSHORE_OUTPUTS; true: all of it.")
    limit: Limit | None = Field(None, description="How many jobs that share its key may run at once.")
    parent: str | None = Field(
        None, max_length=1000, description="The job that enqueued this one; set by the consumer of `::enqueue`."
    )
    reply_to: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_.-]{1,120}$",
        description="Faktory queue that gets a job with the Record at the end.",
    )

    _lists = field_validator(
        "commands", "entrypoint", "args", "variables", "secrets", "unmasked_variables", "files", "image_pull_secrets",
        "tolerations", "tags",
        mode="before",
    )(lambda cls, v: listed(v))  # fmt: skip
    _outputs = field_validator("outputs", mode="before")(
        lambda cls, v: {True: Outputs(), False: None}[v] if isinstance(v, bool) else v
    )
    _logs = field_validator("logs", mode="before")(lambda cls, v: v if v is None else listed(v))

    @model_validator(mode="after")
    def _whole(self) -> Job:
        self._one_way()
        if not self.shell.split() or not self.shell.split()[0].startswith("/"):
            raise ValueError("shell: must be an absolute path with its options, such as '/bin/sh'")
        if self.workdir is not None and (not self.workdir or ".." in self.workdir.split("/") or self.workdir == "/"):
            raise ValueError("workdir: must be a plain path, such as '/workspace'")
        if self.variables or self.secrets:
            others = [*self.env, *(secret.name for secret in self.secrets)]
            for absent in ("init", "main"):
                _distinct("variables", [*others, *(v.name for v in self.variables if v.scope != absent)])
        _distinct("files", [f.path for f in self.files])
        if len(set(self.tags)) < len(self.tags):
            raise ValueError("tags: one of them is given twice")
        if self.logs is not None and len(set(self.logs)) < len(self.logs):
            raise ValueError("logs: one of them is given twice")
        return self

    def _one_way(self) -> None:
        """What is run is said once. Raises ValueError."""
        if self.commands and (self.entrypoint or self.args):
            raise ValueError("commands: can't stand beside entrypoint or args; choose one of them")
        if not (self.commands or self.entrypoint or self.args):
            raise ValueError("commands: is required and must not be empty (or give entrypoint, or args with an image)")
        if self.count_output and not (self.commands or self.entrypoint):
            raise ValueError("count_output: needs commands or an entrypoint; what an image's own one is isn't known")
        if self.commands and not "".join(self.commands).strip():
            raise ValueError("commands: must hold at least one command that isn't blank")

    @classmethod
    def load(cls, payload: object) -> Job:
        """Read a Job from a decoded payload (a mapping).

        Raises InvalidJob with a sentence for each problem that names the field.
        """
        if not isinstance(payload, Mapping):
            from enqueue.closed import kind_of

            raise InvalidJob(
                f"the job must be an object with fields such as image and commands, not {kind_of(payload)}"
            )
        try:
            return cls.model_validate(dict(payload))
        except ValidationError as error:
            problems = problems_of(error, cls)
            raise InvalidJob("; ".join(problems[:8]) + (" ..." if len(problems) > 8 else ""), problems) from None
        except RecursionError:
            raise InvalidJob("the job is nested too deeply") from None

    def payload(self) -> dict[str, Any]:
        """The Job as the queue's one argument: JSON types only, defaults left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)

    def digest(self) -> str:
        """A stable hash of the Job alone: what a found execution is compared with."""
        text = json.dumps(self.payload(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def seal(self, key: str) -> Job:
        """The same with its sensitive variables sealed for the consumers that have the private key.

        `key`: the public one, as `longshore keygen` prints it. Needs PyNaCl (the extra `seal`). Raises UsageError.
        """
        from enqueue.seal import sealed

        return sealed(self, key)

    def describe(self) -> str:
        """One line for dashboards: never a value, which might be a secret."""
        what = (self.commands[0] if self.commands else " ".join((*self.entrypoint, *self.args))).strip()
        what = what.splitlines()[0] if what else ""
        for secret in self.sensitive_values():
            what = what.replace(secret, "***")
        return f"{self.image or 'host'}: {what[:77] + '...' if len(what) > 80 else what}"

    def sensitive_values(self) -> tuple[str, ...]:
        """The values that must not be shown anywhere, longest first."""
        return tuple(sorted({v.value for v in self.variables if v.sensitive and v.value}, key=len, reverse=True))

    def as_rq(self) -> dict[str, Any]:
        """Keywords for stock RQ: `rq.Queue(...).enqueue(**job.as_rq())`."""
        wanted: dict[str, Any] = {"f": JOB_NAME, "args": (self.payload(),), "description": self.describe()}
        if self.timeout is not None:
            wanted["job_timeout"] = round(self.timeout)
        if self.retention.success is not None:
            wanted["result_ttl"] = self.retention.success
        if self.retention.failure is not None:
            wanted["failure_ttl"] = self.retention.failure
        return wanted

    def as_faktory(self) -> dict[str, Any]:
        """Keywords for the PyPI client: `faktory.Client(...).queue(**job.as_faktory(), queue=...)`."""
        return {
            "task": JOB_NAME,
            "args": (self.payload(),),
            "retry": -1 if not self.retries else self.retries,
            "reserve_for": reservation(self.timeout),
        }


def reservation(timeout: float | None) -> int:
    """Faktory's `reserve_for` in seconds for a job with this timeout: it must outlive the job, 60 s to a day."""
    return DAY if timeout is None else int(min(DAY, max(60, timeout + 900)))


def _distinct(field: str, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(
                f"{field}: '{name[:80]}' is given twice (env, variables and secrets share one space)"
                if field != "files"
                else f"files: '{name[:80]}' is given twice"
            )
        seen.add(name)
