"""Runs Plans as pods: a create is a compare-and-set, a restart finds what runs.

A plain job costs three requests: create the pod, read its log, delete it. One with a Secret costs one more.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Iterable
from dataclasses import replace

from consumer.errors import ExecutorFault, SetupError, Unrunnable
from consumer.executors import names
from consumer.executors.circuit import Circuit
from consumer.executors.kubernetes import answers
from consumer.executors.kubernetes.access import Access
from consumer.executors.kubernetes.admission import loosest
from consumer.executors.kubernetes.api import Api, ApiError, path_of
from consumer.executors.kubernetes.execution import PodExecution
from consumer.executors.kubernetes.foreign import in_the_way, is_foreign, ours_among
from consumer.executors.kubernetes.former import left_behind, may_run, of_former_job, on_its_way_out, outwait
from consumer.executors.kubernetes.logs import Streams
from consumer.executors.kubernetes.manifest import Manifest, build, refusals, sample
from consumer.executors.kubernetes.outputs import Shelf
from consumer.executors.kubernetes.refusal import Plain, no_home, translated
from consumer.executors.kubernetes.rights import Arrival, check, sentence_of
from consumer.executors.kubernetes.secret import secret_of
from consumer.executors.kubernetes.status import Pod, pod_of, slim
from consumer.executors.kubernetes.sweep import Leftovers, Sweeper
from consumer.executors.kubernetes.watch import Informer
from consumer.model import Measure, Plan
from consumer.ports import Records
from consumer.settings import Kubernetes, Settings
from consumer.tasks import together
from enqueue.errors import LongshoreError
from enqueue.record import Reason

log = logging.getLogger(__name__)

START_PATIENCE = 10.0
"""For so many seconds a start insists on an API that doesn't answer; beyond that the job waits outside."""
TERMINATING_SECONDS = 60.0
"""How long, beyond its grace, a former pod of the same name may take to go."""


class KubernetesExecutor:
    """The executor for one namespace of one cluster. `open` before anything else."""

    name = "kubernetes"
    detachable = True
    portable = True
    silent = False
    collects = True

    def __init__(self, settings: Kubernetes, consumer: str, profiles: Iterable[str] = ()) -> None:
        """`profiles`: those of job types, beside the settings' own."""
        self._settings, self._consumer = settings, consumer
        self._profile = loosest((settings.profile, *profiles))
        self._streams, self._shelf = Streams(settings.log_streams), Shelf()
        self._opened: tuple[Api, Informer, str] | None = None
        self._arrival = Arrival()
        self._leftovers = Leftovers(settings.keep_failed)
        self._circuit, self._plain = Circuit(), Plain(consumer)
        self._sweeper: Sweeper | None = None

    @property
    def _patience(self) -> float:
        return min(START_PATIENCE, self._settings.patience)

    @property
    def trouble(self) -> str | None:
        """Why the cluster takes no pods now."""
        if self._opened is not None and (error := self._opened[1].trouble) is not None:
            return sentence_of(error, self._opened[2])
        return self._streams.right.trouble or self._circuit.trouble

    def refuse(self, plan: Plan) -> Iterable[tuple[Reason, str]]:
        """What can't be honoured here."""
        return refusals(plan, self._settings)

    def reload(self, settings: Settings) -> None:
        """What pods are made of, and what jobs may ask for. Raises SetupError."""
        sample(settings.kubernetes, self._consumer)
        if loosest((settings.kubernetes.profile, *settings.profiles.values())) != self._profile:
            raise SetupError("job_types: a type's profile asks for more of the namespace than was checked at the start")
        self._settings = settings.kubernetes

    async def open(self) -> None:
        """Connect, list the pods, check the rights.

        Raises SetupError that names what is missing, ExecutorFault if the API doesn't answer.
        """
        access = await Access.load(self._settings)
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", access.namespace, re.ASCII):
            raise SetupError(f"kubernetes.namespace: '{access.namespace}' can't be the name of a namespace")
        limits = {"rate": self._settings.rate, "creates": self._settings.create_rate}
        api = Api(access, **limits, patience=self._settings.patience)
        informer = Informer(api, access.namespace)
        try:
            await together(check(api, access.namespace, self._settings, self._consumer, self._profile), informer.open())
        except BaseException as error:
            try:
                problem = await self._arrival.problem(error, api, access.namespace)
            finally:
                await informer.close()
                await api.close()
            raise problem from None
        self._opened = (api, informer, access.namespace)

    async def close(self) -> None:
        """Free connections; pods run on."""
        if self._opened is not None:
            api, informer, _ = self._opened
            self._opened = None
            await self._streams.right.close()
            await informer.close()
            await api.close()

    async def start(self, plan: Plan) -> PodExecution:
        """Create the attempt's pod, or adopt a pod that runs this job already; only adopt if `plan.begun`.

        What is adopted was allowed when it was created: policy and template hold for what is created now. Raises
        Unrunnable, ExecutorFault.
        """
        api, informer, namespace = self._parts()
        heard: list[tuple[Pod, bool]] = []

        def keep(pod: Pod, gone: bool) -> None:
            heard.append((pod, gone))

        name = names.pod_name(plan.queue, plan.id, plan.attempt)
        informer.listen(name, keep)  # before the create: no event may slip between it and the execution
        try:
            try:
                pod = await self._find(plan, name)
                if pod is None and plan.begun:
                    lost = f"the pod {name} had begun and is gone: its end was seen by nobody"
                    raise ExecutorFault(lost, Reason.POD_DELETED, started=True)
                pod = pod or await self._new(plan, name)
            except ApiError as error:
                raise self._refused(error, namespace) from None
            self._circuit.worked()
            execution = PodExecution(
                api,
                informer,
                namespace,
                plan,
                pod,
                pull_grace=self._settings.image_pull_grace,
                leftovers=self._leftovers,
                streams=self._streams,
                shelf=self._shelf,
            )
            for seen, gone in heard:
                if seen.uid:
                    execution.heard(seen, gone)
        finally:
            informer.unlisten(name, keep)
        execution.begin()
        try:
            if not pod.started:
                owner = replace(plan, attempt=int(pod.name.rpartition("-")[2]))  # perhaps another attempt
                await execution.ensure_secret(secret_of(owner, pod.secret))
        except ApiError as error:
            await plan.confirm()
            await self._take_back(execution)
            raise self._refused(error, namespace) from None
        except BaseException:
            await execution.detach()
            raise
        return execution

    async def sweep(self, records: Records) -> None:
        """Delete pods that outlived their jobs, until cancelled."""
        api, informer, namespace = self._parts()
        self._sweeper = Sweeper(api, namespace, informer, self._leftovers, self._settings, self._consumer)
        await self._sweeper.run(records)

    def measures(self) -> Iterable[Measure]:
        """Requests, the watch, the sweeper."""
        if self._opened is not None:
            yield from self._opened[0].tally.measures()
            yield from self._opened[1].measures()
        if self._sweeper is not None:
            yield from self._sweeper.measures()

    async def _known(self, plan: Plan) -> list[Pod]:
        """The pods of the job, of all its attempts."""
        api, informer, namespace = self._parts()
        key = names.job_key(plan.queue, plan.id)
        if informer.connected.is_set():
            known = informer.of_job(key)
        else:
            query = {"labelSelector": f"{names.OURS},{names.JOB}={key}"}
            path, patience = path_of(namespace, "pods"), self._patience
            listed = await api.request("GET", path, query=query, patience=patience, read=answers.page)
            known = [slim(item) for item in listed.get("items") or ()]
        return ours_among(known, plan)

    async def _find(self, plan: Plan, name: str) -> Pod | None:
        """A pod that runs this job already: this attempt's, ended or not, else a running one of another attempt."""
        informer = self._parts()[1]
        known = sorted(await self._known(plan), key=lambda pod: pod.name != name)
        for pod in known:
            if pod.name != name and (pod.over or on_its_way_out(pod) or left_behind(pod, plan)):
                continue
            # What is listed may be gone since; if it has begun, its end is heard, whether it is asked for or not.
            trusted = plan.begun and pod.name == name and informer.connected.is_set()
            live = pod if trusted else await self._get(pod.name, plan)
            if live is None or (live.name != name and (live.over or left_behind(live, plan))):
                continue
            if of_former_job(live, plan) or (on_its_way_out(live) and not (plan.begun and live.over)):
                continue
            _same_job(live, plan)
            return live
        if not plan.begun:
            return None  # the create will tell
        live = await self._get(name, plan)  # what isn't listed may be there all the same
        if live is None or of_former_job(live, plan):
            return None
        _same_job(live, plan)
        return live

    async def _new(self, plan: Plan, name: str) -> Pod:
        """A pod that is created now. If it may not be, one that isn't listed yet is looked for first."""
        try:
            manifest = build(plan, self._settings, uuid.uuid4().hex[:12])
        except Unrunnable:
            if (pod := await self._find(replace(plan, begun=True), name)) is not None:
                return pod
            raise
        for left in await self._known(plan) if plan.ended else ():
            if may_run(left, plan):
                await outwait(left, plan, self._parts()[2], self._get, self._until_news)
        return await self._create(plan, manifest)

    async def _create(self, plan: Plan, manifest: Manifest) -> Pod:
        api, _, namespace = self._parts()
        until = time.monotonic() + plan.grace + TERMINATING_SECONDS
        while True:
            try:
                body, patience, before = manifest.json, self._patience, plan.confirm
                path = path_of(namespace, "pods")
                made = await api.request("POST", path, body=body, patience=patience, before=before, read=pod_of)
                self._plain.taken(plan.job.image)
                return made
            except ApiError as error:
                if await self._plain.refused_alone(error, manifest, api, namespace, self._settings):
                    why = f"the cluster takes other pods, but fails at this one: {error.message}"
                    raise ExecutorFault(why, Reason.START_TIMEOUT) from None
                if error.status != 409:
                    raise
                conflict = error
            pod = None
            if conflict.code == "AlreadyExists":
                pod = await self._get(manifest.name)
                if pod is not None and is_foreign(pod, plan):
                    raise in_the_way(pod)
                if pod is not None and of_former_job(pod, plan):
                    await self._clear(pod)
                elif pod is not None:
                    _same_job(pod, plan)
                    if not on_its_way_out(pod):
                        return pod
            if time.monotonic() > until:
                raise ExecutorFault(f"the pod {manifest.name} of a former run doesn't go away: {conflict}")
            await self._until_news(manifest.name, 2.0 if pod is not None else 0.2)

    async def _clear(self, pod: Pod) -> None:
        """Make room: the pod of a former job of this id, which has ended. Raises ExecutorFault if it still runs."""
        api, _, namespace = self._parts()
        if pod.deleting:
            return
        if not pod.over:
            raise ExecutorFault(f"the pod {pod.name} still runs a former job of the same id: delete it, or wait for it")
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod.uid}}
        try:
            await api.request("DELETE", path_of(namespace, "pods", pod.name), body=options, read=answers.nothing)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    async def _until_news(self, name: str, seconds: float) -> None:
        """Waits until the pod of this name is gone, at most `seconds`."""
        informer, event = self._parts()[1], asyncio.Event()

        def listener(pod: Pod, gone: bool) -> None:
            if gone:
                event.set()

        informer.listen(name, listener)
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            pass
        finally:
            informer.unlisten(name, listener)

    async def _get(self, name: str, ours: Plan | None = None) -> Pod | None:
        """None: there is none. `ours`: or it is of another store than this plan's."""
        api, _, namespace = self._parts()
        try:
            path = path_of(namespace, "pods", name)
            found = await api.request("GET", path, patience=self._patience, read=pod_of)
            return None if ours is not None and is_foreign(found, ours) else found
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def _take_back(self, execution: PodExecution) -> None:
        """Its Secret can't be made, so it can't start: away with it."""
        try:
            await execution.remove()
        except ApiError as error:
            log.warning("the pod %s that can't start couldn't be deleted: %s", execution.where.pod, error)

    def _refused(self, error: ApiError, namespace: str) -> LongshoreError:
        """The error as the job's or the cluster's; the cluster's own tell that no other start will work either."""
        fault = translated(error, namespace)
        if error.passing or error.status == 401 or error.forbidden or no_home(error):
            self._circuit.refused(sentence_of(error, namespace))
            if isinstance(fault, ExecutorFault):
                fault.down = True
        return fault

    def _parts(self) -> tuple[Api, Informer, str]:
        if self._opened is None:
            raise ExecutorFault("the kubernetes executor isn't open")
        return self._opened


def _same_job(pod: Pod, plan: Plan) -> None:
    if pod.digest != plan.job.digest():
        raise Unrunnable(
            f"id: the pod {pod.name} runs another job under the same id; give each job an id of its own",
            Reason.REFUSED,
        )
