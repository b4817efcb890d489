"""A pod that the API server didn't take: what that means for the job, and whether others fare better."""

from __future__ import annotations

from typing import Any

from consumer.errors import ExecutorFault, Unrunnable
from consumer.executors.kubernetes import answers
from consumer.executors.kubernetes.api import Api, ApiError, path_of
from consumer.executors.kubernetes.manifest import Manifest, sample
from consumer.executors.kubernetes.rights import sentence_of
from consumer.settings import Kubernetes
from enqueue.errors import LongshoreError
from enqueue.record import Reason

_BY_WEBHOOK = "failed calling webhook"
"""Said before anything is stored, and perhaps not in a dry run."""


def no_home(error: ApiError) -> bool:
    """The namespace isn't there, or is on its way out."""
    return "being terminated" in error.message or (error.status == 404 and error.message.startswith("namespaces "))


def translated(error: ApiError, namespace: str) -> LongshoreError:
    """What a refused create means for the job."""
    text = error.message
    if error.status == 403:
        if "exceeded quota" in text:
            return ExecutorFault(f"the namespace's quota is used up: {text}", Reason.UNSCHEDULABLE)
        if "error looking up service account" in text:
            return ExecutorFault(f"the pod's service account isn't there: {text}", Reason.CONFIG_ERROR)
        if error.forbidden is None and "being terminated" not in text:
            return Unrunnable(f"the cluster's policy refuses the pod: {text}", Reason.REFUSED)
    if error.status in (400, 413, 422):
        return Unrunnable(f"the cluster doesn't accept the pod: {text}")
    return ExecutorFault(sentence_of(error, namespace))


class Plain:
    """Asks with dry runs whether the API server takes plain pods: then its trouble is with one pod, not with all."""

    def __init__(self, consumer: str) -> None:
        self._consumer = consumer
        self._images: tuple[str, ...] = ()

    def taken(self, image: str | None) -> None:
        """A pod with this image was created. A policy may refuse what nobody has heard of, so such images are asked
        for; two, since the registry of the last one may be the one that is away.
        """
        if image and image not in self._images[:1]:
            self._images = (image, *(other for other in self._images if other != image))[:2]

    async def refused_alone(self, error: ApiError, manifest: Manifest, api: Api, at: str, settings: Kubernetes) -> bool:
        """The server fails at this pod while it takes others, and has stored nothing of it.

        What fails at the store (a full disk, no quorum) fails for all, and no dry run gets as far: so this pod must
        fail in one, too, unless a webhook's failure was told, which comes before the store.
        """
        if error.status < 500 or not await self._takes_plain(api, at, settings):
            return False
        if _BY_WEBHOOK not in error.message:
            again = await _tried(api, at, manifest.json)
            if again is None or again.status < 500:
                return False
        return await _absent(api, at, manifest.name)

    async def _takes_plain(self, api: Api, namespace: str, settings: Kubernetes) -> bool:
        known = dict.fromkeys(image for image in (settings.image, *self._images) if image)
        tried: list[dict[str, Any]] = [{"image": image} for image in known] or [{}]
        for fields in tried:
            if await _tried(api, namespace, sample(settings, self._consumer, **fields)) is None:
                return True
        return False


async def _tried(api: Api, namespace: str, pod: dict[str, Any] | bytes) -> ApiError | None:
    """What the server says of a pod that it isn't to create; None: it would take it."""
    try:
        query, path = {"dryRun": "All"}, path_of(namespace, "pods")
        await api.request("POST", path, query=query, body=pod, patience=0, read=answers.nothing)
    except ApiError as error:
        return error
    return None


async def _absent(api: Api, namespace: str, name: str) -> bool:
    """No pod of this name is there: an earlier try, whose answer was lost, may have created it."""
    try:
        await api.request("GET", path_of(namespace, "pods", name), patience=0, read=answers.nothing)
    except ApiError as error:
        return error.status == 404
    return False
