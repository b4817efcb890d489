"""What a job may ask for, whatever runs its image: pure, one sentence for each thing refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from consumer.settings_kubernetes import matches
from enqueue.images import parse_image, parse_pattern
from enqueue.job import Job

_SHOWN = 10
"""Allowed names that a sentence lists at most."""


class ImagePolicy(Protocol):
    """The operator's settings for images."""

    @property
    def image(self) -> str | None: ...
    @property
    def allowed_images(self) -> Sequence[str]: ...
    @property
    def require_digest(self) -> bool: ...
    @property
    def image_pull_policy(self) -> str: ...


def pull_policy(image: str, job: Job | None, settings: ImagePolicy) -> str:
    """Always, IfNotPresent or Never for a container with this image; a job can only make its own stricter."""
    policy = settings.image_pull_policy
    if policy == "IfNotPinned":
        policy = "IfNotPresent" if parse_image(image).digest else "Always"
    return "Always" if job is not None and job.image_pull_policy == "Always" and policy != "Never" else policy


def image_refusals(job: Job, settings: ImagePolicy) -> Iterator[str]:
    """What isn't allowed of the job's images and of how it wants them pulled."""
    images = {"image": job.image or settings.image}
    if job.init is not None and job.init.image:
        images["init.image"] = job.init.image
    patterns = [parse_pattern(text) for text in settings.allowed_images]
    for field, text in images.items():
        if text is None:
            continue
        image = parse_image(text)
        if patterns and not any(pattern.matches(image) for pattern in patterns):
            yield f"{field}: {image} isn't allowed; allowed: {listed(settings.allowed_images)}"
        if settings.require_digest and not image.digest:
            yield f"{field}: {image} must be named by its digest here (name@sha256:...)"
        if job.image_pull_policy and settings.image_pull_policy == "Never" and field == "image":
            yield "image_pull_policy: no image is pulled here; leave it out"
        elif job.image_pull_policy == "IfNotPresent" and pull_policy(text, job, settings) == "Always":
            yield f"image_pull_policy: IfNotPresent isn't allowed for {image}; allowed: Always"


def metadata_refusals(
    field: str, given: Mapping[str, str], fixed: Mapping[str, str], allowed: tuple[str, ...]
) -> Iterator[str]:
    """Labels (or annotations) that a job may not set, or not so: `fixed` are the operator's."""
    for key, value in given.items():
        if key in fixed and fixed[key] != value:
            yield f"{field}.{key}: is set by the operator; leave it out"
        elif key not in fixed and not matches(key, allowed):
            yield f"{field}.{key}: isn't allowed; allowed: {listed(allowed)}"


def listed(names: Sequence[str | None]) -> str:
    """The names that there are to choose from."""
    shown = list(dict.fromkeys(name for name in names if name))
    return (", ".join(shown[:_SHOWN]) + (", ..." if len(shown) > _SHOWN else "")) or "none"
