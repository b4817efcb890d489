"""What we must be allowed to do, verb by verb, and a look at whether we are: it leaves no trace."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from consumer.errors import ExecutorFault, SetupError
from consumer.executors import names
from consumer.executors.kubernetes.admission import enforced, gap
from consumer.executors.kubernetes.api import Api, ApiError, path_of
from consumer.executors.kubernetes.lease import leases_path
from consumer.executors.kubernetes.manifest import sample
from consumer.settings import Kubernetes
from consumer.tasks import end, together

log = logging.getLogger(__name__)

PROBE_SECONDS = 3.0
RIGHTS_LATE = 30.0
"""For so many seconds an API server that starts may know no Roles yet, and refuse what it will allow."""
NOBODY = "ls-check"
"""The name of an object that isn't there."""


@dataclass(frozen=True, slots=True)
class Right:
    """A verb on a resource. `lack`: what doesn't work without it; a `needed` one is needed for any job."""

    verb: str
    resource: str
    needed: bool = True
    lack: str = "no job can run"
    group: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}"


_NO_SWEEP = "pods that a dead consumer left of settled jobs stay until somebody deletes them"
LEASES = "coordination.k8s.io"

RIGHTS = (
    Right("list", "pods"),
    Right("watch", "pods"),
    Right("create", "pods"),
    Right("get", "pods"),
    Right("delete", "pods"),
    Right("get", "pods/log"),
    Right("create", "secrets"),
    Right("list", "events", False, "a pod that doesn't start is explained by its status alone"),
    Right("get", "leases", False, _NO_SWEEP, LEASES),
    Right("create", "leases", False, _NO_SWEEP, LEASES),
    Right("update", "leases", False, _NO_SWEEP, LEASES),
)
"""Exactly the Role in k8s/base/rbac.yaml."""


class Arrival:
    """Tells whether a start that failed is to be tried again."""

    def __init__(self) -> None:
        self._away: float | None = None

    async def problem(self, error: BaseException, api: Api, namespace: str) -> BaseException:
        """The error itself if it isn't the API's; else ExecutorFault for what may pass, SetupError for the rest."""
        if not isinstance(error, ApiError):
            return error
        if error.passing:
            self._away = time.monotonic()
            return ExecutorFault(str(error))
        if error.forbidden:
            if self._away is None and not await _ready(api):
                self._away = time.monotonic()
            if self._away is not None and time.monotonic() - self._away < RIGHTS_LATE:
                return ExecutorFault(sentence_of(error, namespace))
        return SetupError(sentence_of(error, namespace))


async def _ready(api: Api) -> bool:
    """The API server doesn't deny that it is: what it refuses, it means."""
    try:
        await api.request("GET", "/readyz", patience=PROBE_SECONDS, read=len)
    except ApiError as error:
        return not (error.passing or error.status in (401, 403))
    return True


async def check(api: Api, namespace: str, settings: Kubernetes, consumer: str, profile: str) -> None:
    """Try what the informer doesn't try anyway. `profile`: the loosest one in use.

    Raises ApiError for a right without which no job can run, SetupError for a pod template that can't be used. Another
    right that is missing is told, once. Whatever else the cluster says (no dry runs in a webhook, a full quota) is no
    reason not to start; a namespace that would take looser pods than ours is told.
    """
    tried = [right for right in RIGHTS if str(right) not in ("list pods", "watch pods")]
    wall = asyncio.create_task(_tell_of_gap(api, namespace, sample(settings, consumer), profile))
    try:
        answers = await together(*(probe(api, namespace, right, settings, consumer) for right in tried))
        await wall
    finally:
        await end(wall)
    told: set[str] = set()
    for right, error in zip(tried, answers, strict=True):
        if error is None:
            continue
        if error.forbidden is None or right.needed:
            if error.status in (0, 401) or error.forbidden or _no_namespace(error):
                raise error
            if settings.template is not None and error.status in (400, 422) and str(right) == "create pods":
                raise SetupError(f"kubernetes.template: the cluster doesn't accept the pod: {error.message}")
            if error.status not in (404, 409):
                log.warning("the cluster may refuse jobs: %s", error)
        elif right.lack not in told:
            told.add(right.lack)
            log.warning("%s; meanwhile %s", sentence_of(error, namespace), right.lack)


async def _tell_of_gap(api: Api, namespace: str, pod: dict[str, Any], profile: str) -> None:
    if profile == "privileged":
        return
    try:
        wrong = gap(await enforced(api, namespace, pod, PROBE_SECONDS), profile, namespace)
    except ApiError:
        return  # whatever it is, the probes tell it
    if wrong is not None:
        log.warning("namespace '%s': %s; %s", namespace, *wrong)


async def probe(api: Api, namespace: str, right: Right, settings: Kubernetes, consumer: str) -> ApiError | None:
    """Use one right on an object that isn't there, or as a dry run: None, or what the API said."""
    method, path, query, body = _request(namespace, right, settings, consumer)
    try:
        if right.verb == "watch":
            async with api.stream(path, query, sock_read=PROBE_SECONDS):
                pass
        else:
            await api.request(method, path, query=query or None, body=body, patience=PROBE_SECONDS)
    except ApiError as error:
        return error
    return None


def _request(
    namespace: str, right: Right, settings: Kubernetes, consumer: str
) -> tuple[str, str, dict[str, str], dict[str, Any] | None]:
    resource, _, sub = right.resource.partition("/")
    leases = right.group == LEASES
    dry = {"dryRun": "All"}
    if right.verb in ("list", "watch"):
        watch = {"watch": "true", "timeoutSeconds": "1"} if right.verb == "watch" else {}
        return "GET", path_of(namespace, resource), {"limit": "1", "labelSelector": names.OURS} | watch, None
    if right.verb == "create":
        made: dict[str, Callable[[], dict[str, Any]]] = {
            "pods": lambda: sample(settings, consumer),
            "secrets": _secret,
            "leases": lambda: _lease(NOBODY),
        }
        strict = {"fieldValidation": "Strict"} if resource == "pods" and settings.template is not None else {}
        return (
            "POST",
            leases_path(namespace) if leases else path_of(namespace, resource),
            dry | strict,
            made[resource](),
        )
    if right.verb == "update":  # of a version that never was
        return "PUT", leases_path(namespace, settings.lease), dry, _lease(settings.lease, resourceVersion="1")
    if leases:
        return "GET", leases_path(namespace, settings.lease), {}, None
    path = path_of(namespace, resource, NOBODY, *([sub] if sub else []))
    return "DELETE" if right.verb == "delete" else "GET", path, {}, None


def _secret() -> dict[str, Any]:
    meta = {"name": names.pod_name("longshore", "check", 0), "labels": {names.MANAGED_BY: "longshore"}}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": {}}


def _lease(name: str, **meta: str) -> dict[str, Any]:
    return {"apiVersion": f"{LEASES}/v1", "kind": "Lease", "metadata": {"name": name, **meta}, "spec": {}}


async def missing(api: Api, namespace: str, settings: Kubernetes, consumer: str) -> Sequence[Right]:
    """The rights that we don't have: the API is asked, or tried where it doesn't tell. Raises ApiError."""
    lacking = []
    for right in RIGHTS:
        try:
            named = right.resource == "leases" and right.verb != "create"
            may = await allowed(api, namespace, right, settings.lease if named else "")
        except ApiError as error:
            if error.status not in (401, 403, 404):
                raise
            tried = await probe(api, namespace, right, settings, consumer)
            refused = tried.forbidden if tried is not None else None
            may = refused is None or refused["verb"] != right.verb  # an update may be told to be a create
        if not may:
            lacking.append(right)
    return lacking


async def allowed(api: Api, namespace: str, right: Right, name: str = "") -> bool:
    """What the API says of a right, on all objects or on the one of that name. Raises ApiError."""
    resource, _, sub = right.resource.partition("/")
    wanted = {"namespace": namespace, "verb": right.verb, "group": right.group, "resource": resource}
    wanted |= {"subresource": sub} if sub else {}
    wanted |= {"name": name} if name else {}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": wanted},
    }
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    answer = await api.request("POST", path, body=body, patience=PROBE_SECONDS)
    return bool((answer.get("status") or {}).get("allowed"))


def _no_namespace(error: ApiError) -> bool:
    return error.status == 404 and error.message.startswith("namespaces ")


def sentence_of(error: ApiError, namespace: str) -> str:
    """The error in words that name what is missing and what to do."""
    if (match := error.forbidden) is not None:
        return (
            f"the user '{match['user']}' may not {match['verb']} {match['resource']} in namespace '{namespace}': "
            "bind the Role from k8s/base/rbac.yaml (and check that the namespace exists)"
        )
    if _no_namespace(error):
        return f"namespace '{namespace}' doesn't exist: create it, or name another with --kubernetes-namespace"
    if error.status == 401:
        return f"the cluster doesn't accept our credentials: {error.message}"
    return error.message
