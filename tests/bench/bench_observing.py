"""What metrics and tracing cost a job, on and off, in CPU time; neither needs a server.

    python tests/bench/bench_observing.py [JOBS]

Off: the questions in the code on a job's way whether somebody measures or traces, found in its source, asked as often
as it asks them. On: the four calls that a job makes (claimed, started, settled, over), on real metrics. A share is of
the least that a job costs us, `CORE` microseconds: the core alone, without queue, cluster and log.
"""

from __future__ import annotations

import ast
import sys
import time
import timeit
from pathlib import Path
from types import SimpleNamespace

from consumer import run, worker
from consumer.metrics import Metrics
from consumer.model import Claim, Exit, Settlement, Verdict
from consumer.recording import record_claimed, record_ended
from enqueue.record import Log, Outcome, Status, Where

CORE = 185.0
"""Microseconds of CPU time for a job of the executor `null` and a queue in memory: docs/performance.md."""


def questions() -> list[str]:
    """Each `if` of the worker and of a job's run that asks for a meter."""
    found = []
    for module in (worker, run):
        for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text())):
            if isinstance(node, ast.If) and "meter is not None" in ast.unparse(node.test):
                found.append(ast.unparse(node.test))
    return found


def off(jobs: int) -> float:
    """Microseconds a job of all questions."""
    nobody = SimpleNamespace(meter=None, _meter=None)
    code = "\n".join(f"if {question}: raise AssertionError" for question in questions())
    timer = timeit.Timer(code, timer=time.process_time, globals={"self": nobody, "tools": nobody})
    return min(timer.repeat(5, jobs)) / jobs * 1e6


def on(jobs: int) -> float:
    """Microseconds a job of all calls, with a claim and a settlement that are there already."""
    metrics, now = Metrics(["q"], {}), time.time()
    claim = Claim("j", "q", 1, "t", None, queued_at=now - 8, claimed_at=now - 6)
    record = record_claimed(claim, "c", "null", "log")
    outcome = Outcome(status=Status.SUCCEEDED)
    record = record_ended(record, outcome, Verdict.DONE, Where(), Exit(started_at=now - 3, ended_at=now), Log(), now)
    settlement = Settlement(claim, Verdict.DONE, outcome, record)

    def job() -> None:
        metrics.claimed(claim)
        metrics.started(claim)
        metrics.settled(settlement)
        metrics.over(claim)

    return min(timeit.Timer(job, timer=time.process_time).repeat(5, jobs)) / jobs * 1e6


def main(jobs: int) -> None:
    """Print both."""
    nothing, all_of_it = off(jobs * 10), on(jobs)
    print(f"off: {len(questions())} questions, {nothing:.3f} us a job, {nothing / CORE:.2%} of {CORE:g} us")
    print(f"on:  {all_of_it:.1f} us a job")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
