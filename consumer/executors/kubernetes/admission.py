"""Which Pod Security level a namespace enforces, and whether it fits the profiles in use.

Found out by pods that it must refuse, tried as dry runs: to read its labels would need one more right.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from consumer.executors.kubernetes.api import Api, ApiError, path_of

LABEL = "pod-security.kubernetes.io/enforce"
LEVELS = ("privileged", "baseline", "restricted")
"""From the loosest on."""


async def attempt(
    api: Api, namespace: str, pod: dict[str, Any], patience: float | None = None
) -> tuple[dict[str, Any] | None, ApiError | None]:
    """Create a pod as a dry run: (what would be stored, None), or (None, why not). Raises ApiError if not told."""
    try:
        path = path_of(namespace, "pods")
        return await api.request("POST", path, query={"dryRun": "All"}, body=pod, patience=patience), None
    except ApiError as error:
        if error.passing or error.status == 401:
            raise
        return None, error


async def enforced(api: Api, namespace: str, pod: dict[str, Any], patience: float | None = None) -> str:
    """The level that is enforced, one of LEVELS. `pod`: one that it takes. Raises ApiError if it can't be told."""
    found = "restricted"
    for level, loosen in (("baseline", _unhardened), ("privileged", _hostile)):
        loose = copy.deepcopy(pod)
        loosen(loose)
        made, error = await attempt(api, namespace, loose, patience)
        if error is not None and "violates PodSecurity" not in error.message:
            raise error
        if made is not None:
            found = level
    return found


def loosest(profiles: Iterable[str]) -> str:
    """The one of the profiles that allows most: what the namespace must let through."""
    return min(profiles, key=LEVELS.index)


def gap(found: str, profile: str, namespace: str) -> tuple[str, str] | None:
    """(what is wrong, what mends it) if a namespace enforces less than the pods' profile; None: all is well."""
    if LEVELS.index(found) >= LEVELS.index(profile):
        return None
    what = "nothing" if found == "privileged" else f"Pod Security '{found}' only"
    text = f"it enforces {what}, and our pods meet '{profile}': whoever else may create pods there could do more"
    return text, f"kubectl label --overwrite namespace {namespace} {LABEL}={profile}"


def _unhardened(pod: dict[str, Any]) -> None:
    """Meets `baseline` and not `restricted`."""
    pod["spec"].pop("securityContext", None)
    for container in (*pod["spec"]["containers"], *pod["spec"].get("initContainers", ())):
        container.pop("securityContext", None)


def _hostile(pod: dict[str, Any]) -> None:
    """Meets neither."""
    pod["spec"]["hostNetwork"] = True
