"""Is the engine fit for us? Asks only: nothing is made, nothing is pulled."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from consumer.errors import SetupError
from consumer.executors.docker.engine import Engine, EngineError
from consumer.executors.docker.images import check_config
from consumer.findings import Finding, Level, clock_finding
from consumer.settings import Docker
from enqueue.images import parse_image
from enqueue.times import epoch

AREA = "engine"


async def check_engine(settings: Docker) -> list[Finding]:
    """Findings about the engine and what the settings want of it."""
    found = [_registries(settings.registry_config)] if settings.registry_config is not None else []
    try:
        engine = Engine(settings)
    except SetupError as error:
        return [*found, Finding(AREA, Level.PROBLEM, str(error), "mend the setting that it names")]
    try:
        await engine.ping()
        before = time.time()
        info = await engine.info()
        after = time.time()
        found.append(_version(info, settings, podman=engine.podman))
        theirs = epoch(str(info.get("SystemTime") or ""))
        if theirs is not None:
            found.append(clock_finding(AREA, "the engine", theirs, before, after))
        found += _abilities(info, settings)
        found += await _named(engine, info, settings)
    except EngineError as error:
        fix = "is the engine running, and may this user use its socket? docker.host or DOCKER_HOST names another one"
        found.append(Finding(AREA, Level.PROBLEM, f"{settings.url}: {error}", fix))
    finally:
        await engine.close()
    return found


def _registries(config: Path) -> Finding:
    try:
        names = check_config(config)
    except SetupError as error:
        return Finding(AREA, Level.PROBLEM, str(error), "name a file that `docker login` has written")
    if not names:
        text = f"docker.registry_config: {config} holds no credentials itself (`auths`); helpers aren't asked"
        return Finding(AREA, Level.WARNING, text, "log in where no credential helper is set up")
    return Finding(AREA, Level.GOOD, f"credentials for {', '.join(names)}")


def _version(info: dict[str, Any], settings: Docker, *, podman: bool) -> Finding:
    kind = "Podman" if podman else "Docker"
    text = f"{kind} {info.get('ServerVersion')} on {info.get('Name')} answers at {settings.url}"
    return Finding(AREA, Level.GOOD, text)


def _abilities(info: dict[str, Any], settings: Docker) -> list[Finding]:
    """What the engine's machine can't hold jobs to."""
    wanted = {
        "MemoryLimit": ("memory", bool(settings.limits.get("memory") or settings.limits_max.get("memory"))),
        "CpuCfsQuota": ("cpu", bool(settings.limits.get("cpu") or settings.limits_max.get("cpu"))),
        "PidsLimit": ("the number of processes", bool(settings.pids_limit)),
    }
    return [
        Finding(AREA, Level.PROBLEM, f"the engine can't limit {what}", "have its kernel's cgroup controllers enabled")
        for key, (what, needed) in wanted.items()
        if needed and info.get(key) is False
    ]


async def _named(engine: Engine, info: dict[str, Any], settings: Docker) -> list[Finding]:
    """Things that must be there under a name."""
    found = []
    if settings.runtime is not None and settings.runtime not in (info.get("Runtimes") or {}):
        known = ", ".join(sorted(info.get("Runtimes") or {}))
        found.append(Finding(AREA, Level.PROBLEM, f"docker.runtime: there is no {settings.runtime}; known: {known}"))
    builtin = settings.network in (None, "none", "host", "bridge")
    if not builtin and settings.network not in (known_networks := await engine.networks()):
        text = f"docker.network: there is no {settings.network}; known: {', '.join(sorted(known_networks))}"
        found.append(Finding(AREA, Level.PROBLEM, text, f"docker network create {settings.network}"))
    if settings.image is not None and await engine.image(str(parse_image(settings.image))) is None:
        never = settings.image_pull_policy == "Never"
        text = f"docker.image: the engine hasn't got {settings.image}" + (", and may not pull it" if never else " yet")
        found.append(Finding(AREA, Level.PROBLEM if never else Level.WARNING, text, f"docker pull {settings.image}"))
    return found
