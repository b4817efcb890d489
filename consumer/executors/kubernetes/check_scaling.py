"""Can the consumers scale their own Deployment? Asks only: nothing is changed."""

from __future__ import annotations

from consumer.errors import SetupError
from consumer.executors.kubernetes.access import Access
from consumer.executors.kubernetes.api import Api, ApiError
from consumer.executors.kubernetes.autoscale import scale_path
from consumer.executors.kubernetes.rights import LEASES, Right, allowed, sentence_of
from consumer.findings import Finding, Level
from consumer.settings import Kubernetes, Scaling

RIGHTS = (
    Right("get", "deployments/scale", group="apps", lack="nothing is scaled"),
    Right("update", "deployments/scale", group="apps", lack="nothing is scaled"),
    Right("get", "leases", group=LEASES, lack="nobody scales"),
    Right("create", "leases", group=LEASES, lack="nobody scales"),
    Right("update", "leases", group=LEASES, lack="nobody scales"),
)
"""Exactly the Role in k8s/overlays/high-availability/autoscaler.yaml."""
_FIX = "kubectl apply -f k8s/overlays/high-availability/autoscaler.yaml, with its names changed to yours"


async def check_scaling(scaling: Scaling, kubernetes: Kubernetes) -> list[Finding]:
    """Findings about `scaling.deployment`: whether it is there, and the rights on it and on the Lease."""
    try:
        access = await Access.load(kubernetes.model_copy(update={"namespace": scaling.namespace}))
    except SetupError as error:
        return [Finding("scaling", Level.PROBLEM, f"scaling.deployment: {error}", "name a kubeconfig that works")]
    api = Api(access, rate=20, patience=3)
    try:
        return await findings(api, access.namespace, scaling)
    except ApiError as error:
        text = f"scaling.deployment: {sentence_of(error, access.namespace)}"
        return [Finding("scaling", Level.PROBLEM, text, "is the API server running, and may we ask it?")]
    finally:
        await api.close()


async def findings(api: Api, namespace: str, scaling: Scaling) -> list[Finding]:
    """Raises ApiError if the API doesn't answer."""
    found = []
    for right in RIGHTS:
        name = scaling.lease if right.resource == "leases" else str(scaling.deployment)
        try:
            may = await allowed(api, namespace, right, "" if right.verb == "create" else name)
        except ApiError as error:
            if error.status not in (403, 404):
                raise
            text = "can't tell whether the consumers may scale their Deployment: the API tells nobody's rights"
            return [Finding("scaling", Level.UNKNOWN, text)]
        if not may:
            whose = "scaling.lease" if right.resource == "leases" else "scaling.deployment"
            text = f"{whose}: may not {right} '{name}' in namespace '{namespace}': {right.lack}"
            found.append(Finding("scaling", Level.PROBLEM, text, _FIX))
    if found:
        return found
    try:
        await api.request("GET", scale_path(namespace, str(scaling.deployment)))
    except ApiError as error:
        if error.status != 404:
            raise
        text = f"scaling.deployment: there is no Deployment '{scaling.deployment}' in namespace '{namespace}'"
        return [Finding("scaling", Level.PROBLEM, text, "name the consumers' own, and its scaling.namespace")]
    text = f"the Deployment '{scaling.deployment}' in namespace '{namespace}' can be scaled"
    return [Finding("scaling", Level.GOOD, text)]
