"""`longshore audit` with real pods, and the Role of k8s/base/rbac.yaml only."""

from __future__ import annotations

import pytest

from consumer.audit import audit
from consumer.executors.kubernetes.api import Api, path_of
from consumer.executors.kubernetes.executor import KubernetesExecutor
from consumer.model import Claim, Verdict
from consumer.plan import plan_of
from consumer.ports import Execution
from consumer.queues.rq import RqQueue
from consumer.recording import record_claimed, record_running
from consumer.settings import Jobs, Kubernetes, Retention, load_settings
from enqueue import Job, aio
from support.consuming import until
from support.rq_jobs import SUCCESS, ended

pytestmark = pytest.mark.cluster


async def test_pods_are_compared_with_what_the_store_knows(
    admin: Api, namespace: str, kubernetes_settings: Kubernetes, redis_url: str, image: str
) -> None:
    """A job whose pod is gone, a pod whose job has ended, a pod of no job; and one where all is well."""
    queue = RqQueue(redis_url, ("q",), consumer="c", max_bytes=100_000, retention=Retention(), patience=0.1)
    await queue.open()
    executor = KubernetesExecutor(kubernetes_settings, "c")
    await executor.open()
    settings = load_settings(
        queue_url=redis_url, queues="q", executor="kubernetes", kubernetes=kubernetes_settings.model_dump()
    )
    job = Job(image=image, commands=["sleep 600"], grace=0)

    async def start(claim: Claim) -> Execution:
        execution = await executor.start(plan_of(claim, Jobs(), "c", source=queue.records.source))
        if claim.token:
            record = record_claimed(claim, "c", "kubernetes", "")
            await queue.records.write(claim, record_running(record, execution.where, None))
        return execution

    try:
        async with aio.connect(redis_url) as producer:
            await producer.enqueue_many([job, job, job], queue="q")
        claims = await queue.claim(3)
        well, bereft, over = [await start(claim) for claim in claims]
        looked = await audit(settings, 0)
        assert looked.faults == []
        assert looked.counts["pods"] == 3

        await queue.settle([ended(claims[2], SUCCESS, Verdict.DONE)])
        ghost = await start(Claim("ghost", "q", 1, "", job))
        body = {"gracePeriodSeconds": 0}
        await admin.request("DELETE", path_of(namespace, "pods", bereft.where.pod or ""), body=body)

        async def found() -> bool:
            faults = (await audit(settings, 0)).faults
            return {(fault.kind, fault.subject) for fault in faults} == {
                ("running_without_pod", claims[1].id),
                ("pod_outlives_job", over.where.pod),
                ("pod_without_job", ghost.where.pod),
            }

        await until(found, 60)
        await well.detach()
    finally:
        await executor.close()
        await queue.close()
