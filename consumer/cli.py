"""What the command `longshore` does in the consumer; loaded by `enqueue.cli` when it is called."""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

from consumer.heap import give_back
from consumer.own_secrets import own_secrets
from consumer.settings import DEFAULT_FILE, load_settings
from consumer.telemetry import set_up_logging
from enqueue.job import Job

GARBAGE = (10_000, 1, 250)
"""When Python looks for cycles: its own (700, 10, 10) takes a fifth of a busy consumer's CPU time.

Often among few: a look at 400,000 objects holds up the event loop for a quarter of a second, one at 30,000 for 20 to
30 ms. All of them are looked at as rarely as with (20_000, 20, 20).
"""


def run(config: Path | None, **flags: Any) -> None:
    """Run jobs from a queue until told to stop. Raises UsageError, SetupError."""
    from consumer.app import run_consumer

    settings = load_settings(config, **flags)
    set_up_logging(settings.log_level, settings.log_format, own_secrets(settings, os.environ))
    give_back()
    gc.freeze()  # what was imported stays: it needn't be looked at again and again, nor once more now
    gc.set_threshold(*GARBAGE)
    read = functools.partial(load_settings, config, **flags)
    asyncio.run(run_consumer(settings, read=read, path=config or DEFAULT_FILE))


def test(job: Job, config: Path | None, as_json: bool, **flags: Any) -> int:
    """Run one job here and now; its exit code."""
    from consumer.once import exit_code, run_once
    from enqueue.show import print_outcome

    settings = load_settings(config, **flags)
    set_up_logging("warning", settings.log_format)
    record = asyncio.run(run_once(job, settings, sys.stderr.buffer if as_json else sys.stdout.buffer))
    if as_json:
        print(json.dumps(record.model_dump(mode="json", exclude_none=True)))
    elif record.outcome is not None and (not record.outcome.succeeded or record.outcome.variables):
        from rich.console import Console

        print_outcome(record.outcome, Console(stderr=True, highlight=False))
    return exit_code(record)


def check(job: Job | None, config: Path | None, as_json: bool, **flags: Any) -> int:
    """What a job would become, or else what is wrong with the set-up; 0 if all is sound, else 1."""
    from consumer import check as checks
    from consumer.show_check import print_findings, print_preview

    settings = load_settings(config, **flags)
    set_up_logging("error", settings.log_format)
    if job is not None:
        if "executor" not in settings.model_fields_set:  # nobody has chosen: what people ask about is the pod
            settings = settings.model_copy(update={"executor": "kubernetes"})
        preview = checks.preview(job, settings)
        print_preview(preview, as_json)
        return 1 if preview.refused else 0
    findings = asyncio.run(checks.check_setup(settings))
    print_findings(findings, as_json)
    return 0 if checks.sound(findings) else 1


def audit(config: Path | None, patience: float, most: int, form: str, **flags: Any) -> int:
    """What is lost, doubled, orphaned or overdue; 0 if nothing is, else 1. `form`: text, json or prometheus."""
    from consumer.audit import audit as look
    from consumer.show_audit import print_audit

    settings = load_settings(config, **flags)
    set_up_logging("error", settings.log_format)
    looked = asyncio.run(look(settings, patience, most))
    print_audit(looked, form)
    return 1 if looked.faults else 0


def demo() -> int:
    """The tour; 0 if everything came out as it should."""
    from consumer.demo import run_demo

    return run_demo()
