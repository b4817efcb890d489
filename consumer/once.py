"""One job without a queue: `longshore test`."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid
from typing import BinaryIO

from consumer.executors import make_executor
from consumer.extras import Extras, collect_nothing
from consumer.logs.follow import Desk, Follower
from consumer.model import Claim, Settlement, Stop
from consumer.outputs import Collector
from consumer.own_secrets import own_secrets
from consumer.queues.none import NoRecords
from consumer.run import Tools, run_job
from consumer.settings import Settings
from consumer.sinks import output_target
from consumer.sinks.console import ConsoleSink
from consumer.switch import Switch
from consumer.unseal import Keys
from enqueue.job import Job
from enqueue.record import Fault, Reason, Record, Status, fault_of


async def run_once(job: Job, settings: Settings, out: BinaryIO) -> Record:
    """Run one job on the executor that the settings name, its log to `out`; SIGTERM or SIGINT cancels it.

    Raises SetupError if the executor can't be used.
    """
    here = settings.process.model_copy(update={"detach": False})  # nobody comes back for it
    executor = make_executor(settings.model_copy(update={"process": here}))
    target = output_target(settings)
    collect = Collector(settings.outputs, target).collect if target is not None else collect_nothing
    settled: list[Settlement] = []

    async def settle(settlement: Settlement) -> None:
        settled.append(settlement)

    claim = Claim(id=uuid.uuid4().hex, queue="test", attempt=1, token=uuid.uuid4().hex, job=job, claimed_at=time.time())
    switch = Switch()
    await executor.open()  # until then there is nothing to cancel: a signal ends us
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, switch.set, Stop.CANCEL)
    keys = Keys(settings.jobs.seal_keys)
    desk = Desk(settings.logs.memory, own_secrets(settings, os.environ))
    try:
        tools = Tools(
            executor=executor,
            records=NoRecords(),
            settings=settings,
            follower=lambda claim: Follower(claim, lambda claim, former: [ConsoleSink(out)], settings.logs, desk),
            settle=settle,
            requeues=False,
            extras=Extras(unseal=keys.open, collect=collect),
        )
        await run_job(claim, tools, switch)
    finally:
        await executor.close()
    return settled[0].record


def exit_code(record: Record) -> int:
    """The job's own code; 124 time-out, 125 infrastructure, 64 a job that this executor refuses, 130 cancelled."""
    if record.status is Status.SUCCEEDED:
        return 0
    if record.status is Status.CANCELLED:
        return 130
    if record.reason in (Reason.DEADLINE, Reason.START_TIMEOUT):
        return 124
    if record.reason in (Reason.INVALID_JOB, Reason.REFUSED, Reason.SEALED):
        return 64
    if fault_of(record.reason) is Fault.INFRASTRUCTURE or record.exit_code is None:
        return 125
    return record.exit_code or 1
