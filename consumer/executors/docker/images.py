"""Images: whether the engine has them, and pulling them, with the operator's credentials."""

from __future__ import annotations

import base64
import binascii
import json
from pathlib import Path
from typing import Any

from consumer.errors import SetupError
from enqueue.images import parse_image

_HUB = ("docker.io", "index.docker.io", "registry-1.docker.io", "https://index.docker.io/v1/")


def credentials(config: Path | None, image: str) -> dict[str, Any] | None:
    """What the operator's config.json holds for an image's registry. Raises SetupError; never shows a value."""
    if config is None:
        return None
    auths = _auths(config)
    host = parse_image(image).host
    names = _HUB if host in _HUB else (host, f"https://{host}", f"https://{host}/v1/", f"https://{host}/v2/")
    found = next((auths[name] for name in names if isinstance(auths.get(name), dict)), None)
    if not found:
        return None
    if token := found.get("identitytoken"):
        return {"identitytoken": token, "serveraddress": host}
    user, password = found.get("username"), found.get("password")
    if found.get("auth"):
        try:
            user, _, password = base64.b64decode(found["auth"]).decode().partition(":")
        except (binascii.Error, ValueError):
            raise SetupError(f"docker.registry_config: {config}: the entry for {host} can't be read") from None
    return {"username": user or "", "password": password or "", "serveraddress": host}


def _auths(config: Path) -> dict[str, Any]:
    try:
        auths = json.loads(config.read_bytes()).get("auths", {})
    except OSError as error:
        raise SetupError(f"docker.registry_config: {config}: {error.strerror}") from None
    except (ValueError, AttributeError):
        raise SetupError(f"docker.registry_config: {config} isn't a config.json of Docker's") from None
    return auths if isinstance(auths, dict) else {}


def check_config(config: Path) -> list[str]:
    """The registries that it has credentials for. Raises SetupError."""
    return sorted(_auths(config))
