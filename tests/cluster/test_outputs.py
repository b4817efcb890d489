"""Files that a job leaves in its pod, under Pod Security `restricted` and with the Role of k8s/base only."""

from __future__ import annotations

import asyncio

import pytest

from consumer.executors.kubernetes.executor import KubernetesExecutor
from consumer.model import Found
from consumer.settings import Kubernetes
from support.kubernetes import plan_of, read

pytestmark = pytest.mark.cluster


async def test_files_of_a_pod_are_handed_over_and_its_outcome_stays_its_own(
    kubernetes_settings: Kubernetes, image: str
) -> None:
    settings = kubernetes_settings.model_copy(update={"outputs_image": image})
    executor = KubernetesExecutor(settings, "consumer-1")
    await executor.open()
    try:
        commands = [
            'cd "$LONGSHORE_OUTPUTS" && mkdir a && printf one > a/one && ln -s /etc/passwd link',
            "head -c 20000000 /dev/urandom > large && sha256sum < large",
            "exit 7",
        ]
        execution = await executor.start(plan_of(commands=commands, image=image, outputs={}))
        try:
            async with asyncio.timeout(60):
                log = await read(execution.logs(), 60)
                exit = await execution.wait()
                found: dict[bytes, Found] = {}
                sizes: dict[bytes, int] = {}
                name = b""
                async for part in execution.outputs():
                    if isinstance(part, Found):
                        name = part.name
                        found[name], sizes[name] = part, 0
                    else:
                        sizes[name] += len(part)
        finally:
            await execution.remove()
    finally:
        await executor.close()
    assert exit.code == 7
    assert len(log.split()[0]) == 64
    assert sizes == {b"a/one": 3, b"large": 20_000_000, b"link": 0}
    assert found[b"link"].problem == "not kept: a symbolic link, which isn't followed"
