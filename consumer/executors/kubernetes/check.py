"""Is the cluster fit for us? Asks and tries with dry runs: nothing is made, nothing is changed."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from consumer.errors import SetupError
from consumer.executors.kubernetes.access import Access
from consumer.executors.kubernetes.admission import LABEL, attempt, enforced, gap, loosest
from consumer.executors.kubernetes.api import Api, ApiError
from consumer.executors.kubernetes.manifest import sample
from consumer.executors.kubernetes.rights import RIGHTS, missing, sentence_of
from consumer.findings import Finding, Level, clock_finding
from consumer.settings import Kubernetes
from enqueue.times import epoch

AREA = "cluster"


async def check_cluster(
    settings: Kubernetes, consumer: str, profiles: Mapping[str, str] = MappingProxyType({})
) -> list[Finding]:
    """Findings about API server, rights, namespace and policies. `profiles`: of job types that name one."""
    try:
        access = await Access.load(settings)
    except SetupError as error:
        return [Finding(AREA, Level.PROBLEM, str(error), "name a kubeconfig that works")]
    api = Api(access, rate=settings.rate, patience=3)
    try:
        return await _Check(api, access.namespace, settings, consumer, profiles).all()
    except ApiError as error:
        return [Finding(AREA, Level.PROBLEM, sentence_of(error, access.namespace), _way_out(error))]
    except SetupError as error:
        return [Finding("settings", Level.PROBLEM, str(error), "mend the setting that it names")]
    finally:
        await api.close()


def _way_out(error: ApiError) -> str:
    if error.status == 0:
        return "is the server running, and its address in the kubeconfig right?"
    if error.status == 401:
        return "renew the credentials that the kubeconfig names"
    return "see what the API server's log says"


class _Check:
    def __init__(
        self, api: Api, namespace: str, settings: Kubernetes, consumer: str, profiles: Mapping[str, str]
    ) -> None:
        self._api, self._namespace, self._settings, self._consumer = api, namespace, settings, consumer
        self._profiles = profiles

    async def all(self) -> list[Finding]:
        found = [await self._version()]
        pod = sample(self._settings, self._consumer)
        before = time.time()
        made, error = await attempt(self._api, self._namespace, pod)
        after = time.time()
        if error is not None and error.status == 404:
            return [*found, Finding(AREA, Level.PROBLEM, sentence_of(error, self._namespace), _apply("namespace.yaml"))]
        found += await self._rights()
        if error is not None and error.forbidden:
            text = "can't tell whether the namespace takes our pods: that needs the right to create them"
            return [*found, Finding(AREA, Level.UNKNOWN, text)]
        found.append(self._accepted(error))
        if made is not None:
            found += _changed(pod, made)
            found.append(await self._pod_security(pod))
            found += [*await self._types(), *await self._accounts(pod)]
            created = epoch((made.get("metadata") or {}).get("creationTimestamp"))
            if created is not None:  # in whole seconds
                found.append(clock_finding(AREA, "the API server", created + 0.5, before - 0.5, after + 0.5))
        return found

    async def _version(self) -> Finding:
        access = self._api.access
        place = f"{access.place} (credentials from {access.source}), namespace '{self._namespace}'"
        try:
            said = await self._api.request("GET", "/version")
        except ApiError as error:
            if error.passing or error.status == 401:
                raise
            return Finding(AREA, Level.GOOD, f"Kubernetes at {place}")
        return Finding(AREA, Level.GOOD, f"Kubernetes {said.get('gitVersion', '')} at {place}")

    async def _rights(self) -> list[Finding]:
        lacking = await missing(self._api, self._namespace, self._settings, self._consumer)
        if not lacking:
            return [Finding("rights", Level.GOOD, f"all {len(RIGHTS)} that k8s/base/rbac.yaml gives are there")]
        return [
            Finding(
                "rights",
                Level.PROBLEM if right.needed else Level.WARNING,
                f"may not {right} in namespace '{self._namespace}': {right.lack}",
                _apply("rbac.yaml"),
            )
            for right in lacking
        ]

    def _accepted(self, error: ApiError | None) -> Finding:
        if error is None:
            return Finding("namespace", Level.GOOD, "it takes our pods (tried with a dry run)")
        text = error.message
        if "violates PodSecurity" in text:
            fix = f"choose the profile that the label {LABEL} of the namespace asks for, or change the label"
        elif "exceeded quota" in text or "failed quota" in text:
            fix = "raise the namespace's ResourceQuota; until there is room, jobs wait for their start_timeout"
        elif "error looking up service account" in text:
            fix = "create the service account that kubernetes.service_account names, or name another"
        elif "usage per" in text:
            fix = "set kubernetes.requests and kubernetes.limits within the namespace's LimitRange"
        else:
            fix = "ask who runs the cluster: an admission policy or webhook refuses our pods"
        return Finding("namespace", Level.PROBLEM, f"it refuses our pods: {text}", fix)

    async def _pod_security(self, pod: dict[str, Any]) -> Finding:
        try:
            found = await enforced(self._api, self._namespace, pod)
        except ApiError as error:
            if error.passing or error.status == 401:
                raise
            text = f"can't tell which Pod Security level is enforced: a test was refused otherwise: {error.message}"
            return Finding("namespace", Level.UNKNOWN, text)
        wrong = gap(found, loosest((self._settings.profile, *self._profiles.values())), self._namespace)
        if wrong is None:
            return Finding("namespace", Level.GOOD, f"it enforces Pod Security '{found}'")
        return Finding("namespace", Level.WARNING, *wrong)

    async def _types(self) -> Sequence[Finding]:
        """Job types with a profile of their own, whose pods the namespace must take as well."""
        found = []
        for profile in sorted({*self._profiles.values()} - {self._settings.profile}):
            try:
                pod = sample(self._settings.model_copy(update={"profile": profile}), self._consumer)
            except SetupError:
                continue  # told of each such type by its preview
            _, error = await attempt(self._api, self._namespace, pod)
            if error is not None:
                names = ", ".join(name for name, own in self._profiles.items() if own == profile)
                text = f"{names}: the namespace refuses pods with the profile {profile}: {error.message}"
                fix = f"give the types a profile that the namespace's label {LABEL} allows, or change the label"
                found.append(Finding("types", Level.PROBLEM, text, fix))
        return found

    async def _accounts(self, pod: dict[str, Any]) -> Sequence[Finding]:
        found = []
        for account in self._settings.allowed_service_accounts:
            other = copy.deepcopy(pod)
            other["spec"]["serviceAccountName"] = account
            _, error = await attempt(self._api, self._namespace, other)
            if error is not None:
                text = f"allowed_service_accounts: '{account}' can't be used: {error.message}"
                fix = f"kubectl -n {self._namespace} create serviceaccount {account}"
                found.append(Finding("namespace", Level.PROBLEM, text, fix))
        return found


def _changed(asked: dict[str, Any], made: dict[str, Any]) -> list[Finding]:
    """What the namespace's LimitRange, or a webhook, makes of our containers' resources."""
    found = []
    for ours, theirs in zip(asked["spec"]["containers"], made["spec"].get("containers") or (), strict=False):
        for kind in ("requests", "limits"):
            before = (ours.get("resources") or {}).get(kind) or {}
            for name, value in ((theirs.get("resources") or {}).get(kind) or {}).items():
                if name not in before:
                    text = f"it adds {kind}.{name}={value} to jobs that set none (a LimitRange, or a webhook)"
                    found.append(Finding("namespace", Level.GOOD, text))
    return found


def _apply(name: str) -> str:
    return f"kubectl apply -f k8s/base/{name}, with its names changed to yours"
