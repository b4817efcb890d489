"""`longshore check`: is this set-up sound, and what would a job become? Nothing is run, nothing is changed."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import resource
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from consumer.errors import SetupError, Unrunnable
from consumer.executors import make_executor
from consumer.findings import Finding, Level, folder_finding
from consumer.job_types import sample
from consumer.logs.forms import SHORTEST, variants_of
from consumer.logs.mask import Mask
from consumer.model import Claim, Plan
from consumer.plan import plan_of
from consumer.settings import Settings
from consumer.unseal import Keys
from enqueue.job import Job

HIDDEN = "***"
_NAMED_BY_JOBS = {"labels", "annotations", "nodeSelector", "Labels", "environment"}
"""Objects whose keys come from the job."""
ORDER = (
    "settings",
    "types",
    "queue",
    "records",
    "cluster",
    "rights",
    "namespace",
    "engine",
    "process",
    "scaling",
    "stores",
)


async def check_setup(settings: Settings) -> list[Finding]:
    """Look at everything that the settings name. Raises UsageError for what can't ever work."""
    from consumer.queues.check import check_queue
    from consumer.sinks.check import check_stores

    found = [*_settings(settings), *_types(settings)]
    parts = check_queue(settings), _executor(settings), _scaling(settings), check_stores(settings)
    for part in await asyncio.gather(*parts):
        found += part
    return sorted(found, key=lambda finding: ORDER.index(finding.area))


def sound(findings: Iterable[Finding]) -> bool:
    """No problem; warnings don't count."""
    return all(finding.level is not Level.PROBLEM for finding in findings)


def _settings(settings: Settings) -> list[Finding]:
    text = f"executor {settings.executor}, queues {', '.join(settings.queues)}, {settings.concurrency} jobs at a time"
    found = [Finding("settings", Level.GOOD, text)]
    wanted, (_, hard) = 512 + 8 * settings.concurrency, resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        text = f"{hard} open files are allowed, and {settings.concurrency} jobs at a time may need {wanted}"
        found.append(Finding("settings", Level.WARNING, text, "ulimit -n, or a lower concurrency"))
    if settings.executor == "kubernetes" and not settings.kubernetes.allowed_images:
        text = "jobs may use any image (kubernetes.allowed_images is empty)"
        found.append(Finding("settings", Level.WARNING, text, "list the images, such as ghcr.io/my-company/*"))
    if settings.executor == "docker" and not settings.docker.allowed_images:
        text = "jobs may use any image (docker.allowed_images is empty)"
        found.append(Finding("settings", Level.WARNING, text, "list the images, such as ghcr.io/my-company/*"))
    return [*found, *_extras(settings)]


def _extras(settings: Settings) -> Iterable[Finding]:
    """What is switched on and needs a package or a file that may not be there."""
    wanted = (
        ("tracing", settings.tracing, "opentelemetry.exporter.otlp.proto.http", "tracing"),
        ("sentry.dsn", settings.sentry.dsn or os.environ.get("SENTRY_DSN"), "sentry_sdk", "sentry"),
        ("s3.bucket", settings.s3.bucket, "aiohttp_s3_client", "s3"),
    )
    for name, switched_on, module, extra in wanted:
        if switched_on and not _is_there(module):
            text = f"{name}: the package {module.split('.')[0]} isn't there, so the consumer won't start"
            yield Finding("settings", Level.PROBLEM, text, f"pip install 'longshore[{extra}]'")
    try:
        Keys(settings.jobs.seal_keys).load()
    except SetupError as error:
        yield Finding("settings", Level.PROBLEM, str(error), "`longshore keygen` makes such a file")


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # nor is what holds it
        return False


def _types(settings: Settings) -> Iterable[Finding]:
    """Each job type, and whether the executor would have it."""
    for name, type in settings.job_types.items():
        if refused := preview(sample(name, type), settings).refused:
            yield Finding("types", Level.PROBLEM, f"{name}: would be refused: {'; '.join(refused)}")
        elif type.unpickle:
            text = f"{name}: whoever may enqueue runs any code in its jobs (unpickle)"
            yield Finding("types", Level.WARNING, text, "leave unpickle out, and have producers give plain values")
        else:
            what = f"function {type.function or name}" if type.python else "command"
            yield Finding("types", Level.GOOD, f"{name}: {what} in {type.image or _default_image(settings)}")


def _default_image(settings: Settings) -> str:
    images = {"kubernetes": settings.kubernetes.image, "docker": settings.docker.image}
    return images[settings.executor] or "the default image" if settings.executor in images else "this host"


async def _executor(settings: Settings) -> list[Finding]:
    if settings.executor == "kubernetes":
        from consumer.executors.kubernetes.check import check_cluster

        return await check_cluster(settings.kubernetes, settings.name, settings.profiles)
    if settings.executor == "docker":
        from consumer.executors.docker.check import check_engine

        return await check_engine(settings.docker)
    make_executor(settings)
    if settings.executor != "process":
        return []
    directory = settings.process.directory or Path(tempfile.gettempdir())
    what, fix = "process.directory: the jobs' own directories", "name another one with process.directory"
    return [folder_finding("process", what, directory, fix)]


async def _scaling(settings: Settings) -> list[Finding]:
    if settings.scaling.deployment is None:
        return []
    from consumer.executors.kubernetes.check_scaling import check_scaling

    return await check_scaling(settings.scaling, settings.kubernetes)


@dataclass(frozen=True)
class Preview:
    """What a job would become. `refused`: why it wouldn't run."""

    executor: str
    refused: tuple[str, ...] = ()
    objects: tuple[dict[str, Any], ...] = ()
    process: dict[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {name: value for name, value in asdict(self).items() if value or name == "refused"}


def preview(job: Job, settings: Settings) -> Preview:
    """Needs no server. Sensitive values are hidden wherever the job repeats them, as in what is said of a refusal.

    Raises UsageError for an unknown executor.
    """
    found, hide = _preview(job, settings), _Hider(job.sensitive_values())
    return Preview(found.executor, *(hide(part) for part in (found.refused, found.objects, found.process)))


def _preview(job: Job, settings: Settings) -> Preview:
    if refused := tuple(_refusals(job, settings)):
        return Preview(settings.executor, refused)
    plan = _plan(job, settings)
    if settings.executor == "kubernetes":
        from consumer.executors.kubernetes.manifest import build

        try:
            manifest = build(plan, settings.kubernetes)
        except (Unrunnable, SetupError) as error:
            return Preview(settings.executor, (str(error),))
        hidden = dict.fromkeys(manifest.secret.data, HIDDEN)
        secret = manifest.secret.owned_by("") | {"data": hidden}
        secret["metadata"] = {k: v for k, v in secret["metadata"].items() if k != "ownerReferences"}
        objects = (manifest.pod, *([secret] if hidden else []))
        return Preview(settings.executor, objects=objects)
    if settings.executor == "docker":
        return _containers(plan, settings)
    return Preview(settings.executor, process=_process(plan) if settings.executor == "process" else {})


def _containers(plan: Plan, settings: Settings) -> Preview:
    """What would be made on an engine; scripts, files and sensitive variables are laid down in it."""
    from consumer.executors.docker.container import build

    try:
        containers = build(plan, settings.docker)
    except Unrunnable as error:
        return Preview(settings.executor, (str(error),))
    steps = [step for step in (containers.main, containers.init) if step is not None]
    return Preview(settings.executor, objects=tuple({"name": step.name} | step.body for step in steps))


def _refusals(job: Job, settings: Settings) -> Sequence[str]:
    try:
        return [text for _, text in make_executor(settings).refuse(_plan(job, settings))]
    except (Unrunnable, SetupError) as error:
        return [str(error)]


def _plan(job: Job, settings: Settings) -> Plan:
    claim = Claim(id="JOB_ID", queue=settings.order.names[0], attempt=1, token="", job=job)
    return plan_of(claim, settings.jobs, settings.name)


def _process(plan: Plan) -> dict[str, Any]:
    """What would run on this host."""
    job = plan.job
    command = [*job.shell.split(), "-e", "script.sh"] if job.commands else [*job.entrypoint, *job.args]
    steps: dict[str, Any] = {"init": [*job.shell.split(), "-e", "init.sh"]} if job.init else {}
    scripts = {"init.sh": "\n".join(job.init.commands)} if job.init else {}
    if job.commands:
        scripts["script.sh"] = "\n".join(job.commands)
    return {
        "command": command,
        **steps,
        "scripts": scripts,
        "workdir": job.workdir or "a directory of its own",
        "environment": dict(job.env) | {v.name: v.value for v in job.variables},
        "files": [file.path for file in job.files],
        "timeout": plan.timeout,
    }


class _Hider:
    """Takes sensitive values out of what is shown: as they are, and as they look encoded or quoted."""

    def __init__(self, secrets: Sequence[str]) -> None:
        # For Kubernetes every $ of arguments and values is doubled.
        doubled = {form.replace(b"$", b"$$") for form in variants_of(secret.encode() for secret in secrets)}
        self._mask = Mask(secrets, doubled)
        short = [secret for secret in secrets if len(secret.encode()) < SHORTEST]
        self._short = [form for secret in short for form in (secret.replace("$", "$$"), secret)]

    def __call__(self, value: Any, within: str = "") -> Any:
        """The same without them; `within`: the field that holds it."""
        if isinstance(value, str):
            value = self._mask.mask_text(value)
            for secret in self._short:
                value = value.replace(secret, HIDDEN)
        elif isinstance(value, dict):
            theirs = within in _NAMED_BY_JOBS
            return {self(name) if theirs else name: self(inner, name) for name, inner in value.items()}
        elif isinstance(value, list):
            return [self(inner) for inner in value]
        elif isinstance(value, tuple):
            return tuple(self(inner) for inner in value)
        return value
