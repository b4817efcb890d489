"""Checks at the start that namespace and rights are there, without leaving a trace, and says what is missing."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from consumer.executors.kubernetes import names
from consumer.executors.kubernetes.api import Api, ApiError, path_of
from consumer.executors.kubernetes.manifest import build
from consumer.model import Plan
from consumer.settings import Kubernetes
from enqueue.job import Job

log = logging.getLogger(__name__)

PROBE_SECONDS = 3.0


async def check(api: Api, namespace: str, settings: Kubernetes, consumer: str) -> None:
    """Try each verb on an object that isn't there, each create as a dry run. Raises ApiError for a missing right.

    Whatever else the cluster says (no dry runs in a webhook, a full quota) is no reason not to start.
    """
    plan = Plan("check", "longshore", 0, consumer, Job(image="longshore", commands=("true",)), None, 1, 1)
    pod = build(plan, settings.model_copy(update={"image": settings.image or "longshore"})).pod
    meta = {"name": names.pod_name("longshore", "check", 0), "labels": {names.MANAGED_BY: "longshore"}}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": {}}
    nobody = "ls-check"
    dry = {"dryRun": "All"}
    await asyncio.gather(
        _probe(api, "POST", path_of(namespace, "pods"), dry, pod),
        _probe(api, "POST", path_of(namespace, "secrets"), dry, secret),
        _probe(api, "DELETE", path_of(namespace, "pods", nobody), None, None),
        _probe(api, "GET", path_of(namespace, "pods", nobody), None, None),
        _probe(api, "GET", path_of(namespace, "pods", nobody, "log"), None, None),
    )


async def _probe(api: Api, method: str, path: str, query: dict[str, str] | None, body: dict[str, Any] | None) -> None:
    try:
        await api.request(method, path, query=query, body=body, patience=PROBE_SECONDS)
    except ApiError as error:
        if error.status in (0, 401) or error.forbidden or _no_namespace(error):
            raise
        if error.status not in (404, 409):
            log.warning("the cluster may refuse jobs: %s", error)


def _no_namespace(error: ApiError) -> bool:
    return error.status == 404 and error.message.startswith("namespaces ")


def sentence_of(error: ApiError, namespace: str) -> str:
    """The error in words that name what is missing and what to do."""
    if (match := error.forbidden) is not None:
        return (
            f"the user '{match['user']}' may not {match['verb']} {match['resource']} in namespace '{namespace}': "
            "bind the Role from k8s/rbac.yaml (and check that the namespace exists)"
        )
    if _no_namespace(error):
        return f"namespace '{namespace}' doesn't exist: create it, or name another with --kubernetes-namespace"
    if error.status == 401:
        return f"the cluster doesn't accept our credentials: {error.message}"
    return error.message
