"""A real engine: settings whose containers can be told from everybody else's, and their removal."""

from __future__ import annotations

import os
import secrets
from typing import Any

from consumer.executors.docker.engine import Engine
from consumer.settings import Docker

IMAGE = os.environ.get("LONGSHORE_TEST_IMAGE", "busybox")


def engine_settings(**more: Any) -> Docker:
    """Settings for DOCKER_HOST whose containers have a label of their own, `longshore-test`."""
    return Docker(labels={"longshore-test": secrets.token_hex(4)}, network="none", **more)


async def remove_all(engine: Engine, label: str) -> None:
    """Remove the containers of such settings."""
    for item in sorted(
        await engine.list(f"longshore-test={label}"), key=lambda item: len(item["Names"][0]), reverse=True
    ):
        await engine.delete(str(item["Id"]))
