"""Settings that change while the consumer runs: which may, what a new reading of them changes, and when it is read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from pydantic import BaseModel

from consumer.section import Section
from enqueue.errors import LongshoreError, UsageError

if TYPE_CHECKING:  # which reads from here what may change
    from consumer.settings import Settings

log = structlog.get_logger()

RELOADABLE = frozenset(
    """
    queues concurrency shutdown shutdown_grace log_level job_types
    jobs.timeout jobs.start_timeout jobs.grace jobs.grace_max jobs.types_only
    jobs.enqueue_to jobs.enqueue_max
    logs.max_bytes logs.interval logs.tail_lines logs.finish
    process.output_bytes
    docker.run_as_user docker.read_only docker.pids_limit docker.network docker.runtime
    docker.image docker.allowed_images docker.require_digest
    docker.image_pull_policy docker.image_pull_grace docker.registry_config
    docker.requests docker.limits docker.limits_max docker.labels docker.allowed_labels
    kubernetes.run_as_user kubernetes.read_only kubernetes.host_users
    kubernetes.image kubernetes.allowed_images kubernetes.require_digest
    kubernetes.image_pull_policy kubernetes.image_pull_grace
    kubernetes.image_pull_secrets kubernetes.allowed_image_pull_secrets
    kubernetes.service_account kubernetes.allowed_service_accounts kubernetes.service_account_token
    kubernetes.allowed_secrets kubernetes.requests kubernetes.limits kubernetes.volume_size kubernetes.limits_max
    kubernetes.labels kubernetes.annotations kubernetes.allowed_labels kubernetes.allowed_annotations
    kubernetes.node_selector kubernetes.allowed_node_selectors kubernetes.tolerations kubernetes.allowed_tolerations
    kubernetes.runtime_class kubernetes.allowed_runtime_classes
    kubernetes.priority_class kubernetes.allowed_priority_classes kubernetes.dns_policy
    """.split()  # noqa: SIM905
)
"""What holds for jobs that begin later. All else is a connection, a name, or something that was opened by it."""


def changes(before: BaseModel, after: BaseModel) -> tuple[str, ...]:
    """The names of the settings that differ, such as `kubernetes.image`."""
    found: list[str] = []
    for name in type(before).model_fields:
        old, new = getattr(before, name), getattr(after, name)
        if isinstance(old, Section):
            found += [f"{name}.{inner}" for inner in changes(old, new)]
        elif old != new:
            found.append(name)
    return tuple(found)


def stuck(before: Settings, after: Settings) -> tuple[str, ...]:
    """Of the settings that differ, those that need a restart. Queues may change their order, not their names."""
    found = [name for name in changes(before, after) if name not in RELOADABLE]
    if sorted(before.order.names) != sorted(after.order.names):
        found.append("queues")
    return tuple(found)


class Live:
    """The settings that hold now, and how others take their place.

    `read` reads them anew, `apply` has all parts use them; either raises LongshoreError, and then nothing changes.
    `path`: the file among their sources, if there is one.
    """

    def __init__(
        self, settings: Settings, read: Callable[[], Settings], apply: Callable[[Settings], None], path: Path
    ) -> None:
        self.settings = settings
        self._read, self._apply, self._path = read, apply, path
        self._seen = self._look()

    def reload(self) -> bool:
        """Read them and use them; False, and a word in the log, if they can't take the place of those that hold."""
        before, self._seen = self._seen, self._look()
        try:
            if before is not None and self._seen is None:
                raise UsageError(f"{self._path}: the file is gone")
            new = self._read()
            changed = changes(self.settings, new)
            if fixed := stuck(self.settings, new):
                raise UsageError(f"{', '.join(fixed)}: can't change while the consumer runs; restart it")
            if changed:
                self._apply(new)
        except LongshoreError as error:
            log.error("settings_not_reloaded", error=str(error), doing="going on with those that hold")
            return False
        self.settings = new
        log.info("settings_reloaded", changed=list(changed))
        return True

    async def watch(self, interval: float) -> None:
        """Look at the file every `interval` seconds, until cancelled."""
        while True:
            await asyncio.sleep(interval)
            if self._look() != self._seen:
                self.reload()

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size
