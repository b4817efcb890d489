"""What the sections `kubernetes` and `docker` share: amounts, image patterns, and what must agree with each other."""

from __future__ import annotations

from typing import Annotated, Protocol

from pydantic import AfterValidator

from enqueue.images import parse_image, parse_pattern
from enqueue.quantity import amount


def _quantity(text: str) -> str:
    amount(text)
    return text


def _pattern(text: str) -> str:
    parse_pattern(text)
    return text


Quantity = Annotated[str, AfterValidator(_quantity)]
Quantities = dict[str, Quantity]
Pattern = Annotated[str, AfterValidator(_pattern)]


class _Containers(Protocol):
    @property
    def requests(self) -> Quantities: ...
    @property
    def limits(self) -> Quantities: ...
    @property
    def limits_max(self) -> Quantities: ...
    @property
    def image(self) -> str | None: ...
    @property
    def allowed_images(self) -> tuple[Pattern, ...]: ...
    @property
    def require_digest(self) -> bool: ...


def check_amounts(settings: _Containers) -> None:
    """No default above the ceiling. Raises ValueError."""
    for setting in ("requests", "limits"):
        for name, quantity in getattr(settings, setting).items():
            most = settings.limits_max.get(name)
            if most is not None and amount(quantity) > amount(most):
                raise ValueError(f"{setting}: {name}: {quantity} is more than {most} in limits_max")


def check_image(settings: _Containers) -> None:
    """The default image is one that jobs may name. Raises ValueError."""
    if settings.image is not None:
        try:
            image = parse_image(settings.image)
        except ValueError as error:
            raise ValueError(f"image: {error}") from None
        if settings.allowed_images and not any(parse_pattern(text).matches(image) for text in settings.allowed_images):
            raise ValueError(f"image: {image} isn't among allowed_images")
        if settings.require_digest and not image.digest:
            raise ValueError("image: must be named by its digest (name@sha256:...) because of require_digest")
