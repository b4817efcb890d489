"""What of every pod is the operator's, worked out once for all jobs: pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from consumer.executors.kubernetes.profiles import container_security, pod_security
from consumer.executors.kubernetes.template import template_of
from consumer.executors.resources import DISK, resources_of
from consumer.settings import Kubernetes
from enqueue.pod import Resources, Toleration
from enqueue.quantity import amount


@dataclass(slots=True)
class Site:
    """The settings, and what follows from them alone. Pods share these objects: nobody changes them."""

    settings: Kubernetes
    template: dict[str, Any]
    security: dict[str, Any]
    """The securityContext of each step."""
    resources: dict[str, dict[str, str]]
    """Of a job that asks for nothing; `volume`: the source of its empty volumes; `spec`: the rest of its pod."""
    volume: dict[str, str]
    spec: dict[str, Any]
    _profiles: dict[str, Site] = field(default_factory=dict)

    def under(self, profile: str | None) -> Site:
        """The same with this profile; None: the settings' own."""
        if profile is None or profile == self.settings.profile:
            return self
        if profile not in self._profiles:
            self._profiles[profile] = _made(self.settings.model_copy(update={"profile": profile}))
        return self._profiles[profile]


_known: dict[int, Site] = {}
_MOST = 8


def site_of(settings: Kubernetes) -> Site:
    """What follows from these settings. Raises SetupError that names what is wrong with the template."""
    found = _known.get(id(settings))
    if found is None or found.settings is not settings:
        found = _made(settings)
        if len(_known) >= _MOST:  # a process has one; tests and checks have many
            _known.clear()
        _known[id(settings)] = found
    return found


def _made(settings: Kubernetes) -> Site:
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": settings.service_account_token,
        "enableServiceLinks": False,
        "securityContext": pod_security(settings),
    }
    wanted = {
        "serviceAccountName": settings.service_account,
        "runtimeClassName": settings.runtime_class,
        "priorityClassName": settings.priority_class,
        "nodeSelector": settings.node_selector,
        "tolerations": [toleration_of(toleration) for toleration in settings.tolerations],
        "imagePullSecrets": [{"name": name} for name in dict.fromkeys(settings.image_pull_secrets)],
        "dnsPolicy": settings.dns_policy,
    }
    spec |= {name: value for name, value in wanted.items() if value}
    if settings.host_users is not None:
        spec["hostUsers"] = settings.host_users
    return Site(
        settings,
        template_of(settings),
        container_security(settings),
        resources_of(None, settings)[0],
        volume_of(None, settings),
        spec,
    )


def volume_of(wanted: Resources | None, settings: Kubernetes) -> dict[str, str]:
    """The source of an empty volume: as large as the operator says, or as the storage that the job itself asks for."""
    asked = (wanted.limits.amounts() if wanted else {}).get(DISK, "0")
    if not amount(settings.volume_size):
        return {}
    return {"sizeLimit": max(settings.volume_size, asked, key=amount)}


def toleration_of(wanted: Toleration) -> dict[str, Any]:
    """As the API has it."""
    given = wanted.model_dump(exclude_none=True)
    return {"tolerationSeconds" if name == "seconds" else name: value for name, value in given.items()}
