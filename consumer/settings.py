"""The consumer's settings, in sections: read once at start, handed down by section; nobody else reads the environment.

Sources, the first that names a setting wins: command line flags, environment (LONGSHORE_QUEUE_URL,
LONGSHORE_KUBERNETES_NAMESPACE, ...), a YAML file (`longshore.yaml` here, or the one named by --config).
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from consumer.queue_order import QueueOrder
from consumer.section import Section
from consumer.settings_audit import Audit as Audit
from consumer.settings_docker import Docker as Docker
from consumer.settings_faktory import Faktory as Faktory
from consumer.settings_job_types import JobType, TypeName
from consumer.settings_kubernetes import Kubernetes as Kubernetes
from consumer.settings_rq import Rq as Rq
from consumer.settings_scaling import Scaling as Scaling
from consumer.settings_sentry import Sentry as Sentry
from consumer.settings_sinks import S3 as S3
from consumer.settings_sinks import Console as Console
from consumer.settings_sinks import Files as Files
from consumer.settings_sinks import Outputs as Outputs
from consumer.settings_table import PREFIX, problems_in
from enqueue.backends import faktory_url_from
from enqueue.closed import kind_of, problems_of
from enqueue.errors import UsageError
from enqueue.files import load_yaml
from enqueue.job_parts import SinkName

DEFAULT_FILE = Path("longshore.yaml")
"""Read if it is there."""


class Jobs(Section):
    """What holds for jobs that don't say otherwise."""

    timeout: float = Field(
        86_400, gt=0, description="Seconds that a job may run if neither it nor its queue sets a limit."
    )
    start_timeout: float = Field(300, gt=0, description="Seconds until a job must have started.")
    grace: float = Field(10, ge=0, description="Seconds between TERM and KILL when a job is stopped.")
    grace_max: float = Field(600, ge=0, description="Seconds of grace that a job may ask for at most.")
    max_bytes: int = Field(1_000_000, gt=0, description="The largest accepted payload, in bytes.")
    seal_keys: Path | None = Field(
        None,
        description="File with the private keys, one a line, that open sealed variables (`longshore keygen`). "
        "Read at the start, and again when a job wants a key that isn't known.",
    )
    enqueue_to: tuple[str, ...] = Field(
        (), description="Queues on which a job may enqueue others by printing ::enqueue; none if not given."
    )
    enqueue_max: int = Field(20, ge=1, le=1000, description="Jobs that one attempt of a job may enqueue at most.")
    types_only: bool = Field(
        False, description="Only jobs of `job_types` are run: no producer chooses images or commands by longshore.job."
    )


class Retention(Section):
    """How long Records and logs are kept after the end, in seconds, if the producer doesn't say."""

    success: int = Field(86_400, ge=1, description="Seconds after a success.")
    failure: int = Field(604_800, ge=1, description="Seconds after a failure or a cancel.")


class Logs(Section):
    """How logs are kept."""

    max_bytes: int = Field(10 * 1024 * 1024, ge=4096, description="Bytes kept of a job's log; head and tail stay.")
    memory: int = Field(
        64 * 1024 * 1024, ge=1024 * 1024, description="Bytes of all logs together that may wait to be stored."
    )
    interval: float = Field(0.5, gt=0, description="Seconds after which read lines are stored at the latest.")
    tail_lines: int = Field(20, ge=0, description="Last lines shown in failure texts on the queue's web pages.")
    sinks: tuple[SinkName, ...] = Field(
        ("record",), description="Where logs go if a job doesn't say: record, file, console, s3."
    )
    allowed_sinks: tuple[SinkName, ...] = Field(
        (), description="What else a job may name in its field `logs`; those of logs.sinks it may always name."
    )
    finish: float = Field(
        10, ge=0, le=18, description="Seconds after a log's end for which a sink that is away is waited for."
    )


class Process(Section):
    """The process executor."""

    directory: Path | None = Field(
        None,
        description="Where jobs get their private directories: $XDG_STATE_HOME/longshore if not given. "
        "Consumers that shall adopt each other's jobs must share it.",
    )
    detach: bool = Field(
        True,
        description="Jobs outlive their consumer, and the next one on this host goes on with them. If not, "
        "they are stopped with it. Never for a container's first process, which takes all others with it.",
    )
    output_bytes: int = Field(
        256 * 1024 * 1024, ge=4096, description="Bytes of a job's output kept on disk until its end."
    )


class Settings(BaseSettings):
    """All settings of `longshore run`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="_",
        env_nested_max_split=1,
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
        defer_build=True,  # only `load_settings` makes one, of a class of its own
    )

    queue_url: str = Field(
        "redis://localhost:6379/0",
        description="redis://, rediss://, unix:// (RQ) or faktory://, tcp:// (Faktory). If nobody names one, as "
        "Faktory's clients find it: FAKTORY_PROVIDER, FAKTORY_URL.",
    )
    queues: Annotated[tuple[str, ...], NoDecode] = Field(
        ("default",),
        min_length=1,
        description="Queues, the first one first; or by weight, `a=5,b=1`: a comes first in five claims of six.",
    )
    records_url: str | None = Field(None, description="Redis that keeps Faktory jobs' Records and logs.")
    no_records: bool = Field(False, description="Faktory without Records: no wait, logs, cancel.")
    executor: str = Field("process", description="process, docker, kubernetes or null.")
    concurrency: int = Field(10, ge=1, le=100_000, description="Jobs at a time.")
    name: str = Field(
        default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}", description="This consumer's name."
    )
    state_directory: Path | None = Field(
        None,
        description="Where consumers of this machine see which of them are dead; below the temporary directory "
        "if not given.",
    )
    shutdown: Literal["detach", "drain"] = Field(
        "detach",
        description="After TERM: leave running pods to the next consumer at once, or wait shutdown_grace for them.",
    )
    shutdown_grace: float = Field(
        20, ge=0, description="Seconds that running jobs get to end after TERM, if they aren't left at once."
    )
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="Port of /metrics, /healthz and /readyz; off if not given."
    )
    metrics_address: str = Field("0.0.0.0", description="Where that port is opened; `::` for IPv6 as well.")
    log_format: Literal["console", "json"] = Field(
        "console", description="The consumer's own log: for people, or JSON."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least important events that the consumer's own log tells."
    )
    tracing: bool = Field(
        False,
        description="Spans of each job for OpenTelemetry, by OTLP over HTTP; OTEL_EXPORTER_OTLP_ENDPOINT and its other "
        "variables say where they go. Needs the extra `tracing`.",
    )
    reload_interval: float = Field(
        0,
        ge=0,
        description="Seconds between two looks whether the settings file has changed; 0: only SIGHUP has it read.",
    )
    jobs: Jobs = Jobs()
    job_types: dict[TypeName, JobType] = Field({}, description="Jobs by name, the operator's own: docs/job-types.md.")
    retention: Retention = Retention()
    logs: Logs = Logs()
    files: Files = Files()
    console: Console = Console()
    outputs: Outputs = Outputs()
    s3: S3 = S3()
    sentry: Sentry = Sentry()
    process: Process = Process()
    rq: Rq = Rq()
    faktory: Faktory = Faktory()
    docker: Docker = Docker()
    kubernetes: Kubernetes = Kubernetes()
    scaling: Scaling = Scaling()
    audit: Audit = Audit()

    @field_validator("queues", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",")]
        if isinstance(value, (list, tuple)) and (not value or not all(isinstance(v, str) and v for v in value)):
            raise ValueError("name at least one queue, several with commas: 'critical,default'")
        if isinstance(value, (list, tuple)):
            QueueOrder.of(value)
        return value

    @property
    def order(self) -> QueueOrder:
        """The queues' names, and how to choose among them."""
        return QueueOrder.of(self.queues)

    @property
    def profiles(self) -> dict[str, str]:
        """Job types with a security profile of their own, and which."""
        return {name: type.profile for name, type in self.job_types.items() if type.profile is not None}

    @model_validator(mode="after")
    def _callbacks_go_elsewhere(self) -> Settings:
        if self.rq.callback_queue in self.order.names:
            raise ValueError("rq.callback_queue: must be a queue of stock RQ workers, none of this consumer's own")
        return self

    @model_validator(mode="after")
    def _audits_read_records(self) -> Settings:
        if self.audit.interval and self.no_records:
            raise ValueError("audit.interval: without Records there is nothing to audit; leave no_records out")
        return self

    @model_validator(mode="after")
    def _sinks_have_places(self) -> Settings:
        named = {*self.logs.sinks, *self.logs.allowed_sinks}
        named |= {self.outputs.store} if self.outputs.store else set()
        if "file" in named and self.files.directory is None:
            raise ValueError("files.directory: is needed by the sink 'file' in logs, and by outputs.store")
        if "s3" in named and self.s3.bucket is None:
            raise ValueError("s3.bucket: is needed by the sink 's3' in logs, and by outputs.store")
        return self

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not value or len(value) > 200 or any(c.isspace() for c in value):
            raise ValueError("must be a word without spaces")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then environment, then the YAML file; for the queue's URL at last what Faktory's clients look at."""
        sources = init_settings, env_settings, YamlConfigSettingsSource(settings_cls)
        if any("queue_url" in source() for source in sources):
            return sources
        url = faktory_url_from(os.environ)
        return (*sources, InitSettingsSource(settings_cls, {"queue_url": url} if url else {}))


def load_settings(config: Path | None = None, **flags: Any) -> Settings:
    """Read the settings; `flags` that are None were not given.

    Raises UsageError with a sentence for each wrong setting.
    """
    path = config or DEFAULT_FILE
    if config is not None and not config.is_file():
        raise UsageError(f"--config: there is no file {config}")

    if path.is_file():
        _check_mapping(path)

    class Here(Settings):
        model_config = SettingsConfigDict(yaml_file=path)

    given = {name: value for name, value in flags.items() if value is not None}
    if wrong := problems_in(os.environ, Settings):
        raise UsageError("settings: " + "; ".join(wrong))
    try:
        return Here(**given)
    except ValidationError as error:
        raise UsageError("settings: " + "; ".join(problems_of(error, Settings))) from None


def _check_mapping(path: Path) -> None:
    try:
        content = load_yaml(path.read_bytes(), str(path))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    if content is not None and not isinstance(content, dict):
        raise UsageError(f"{path}: must hold settings by name, such as 'concurrency: 10', not {kind_of(content)}")
