"""What Prometheus is told: each job once, under labels that nobody outside chooses."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from consumer.metrics import MEASURES, Metrics
from consumer.model import Backlog, Claim, Exit, Measure, Settlement, Verdict
from consumer.recording import record_claimed, record_ended, record_running
from enqueue.record import Log, Outcome, Record, Status, Where

NOW = time.time()
CLAIM = Claim("j", "q", 1, "t", None, queued_at=NOW - 8, claimed_at=NOW - 6)


def settlement(claim: Claim, outcome: Outcome, verdict: Verdict = Verdict.DONE, gaps: Any = ()) -> Settlement:
    record = record_claimed(claim, "c", "null", "log")
    exit = Exit(started_at=NOW - 3, ended_at=NOW)
    record = record_ended(record, outcome, verdict, Where(), exit, Log(gaps=gaps), NOW)
    return Settlement(claim, verdict, outcome, record)


async def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    """{(name, label values in the order of their names): value}."""
    text, _ = await metrics.text()
    return {
        (
            sample.name.removeprefix("longshore_"),
            tuple(sample.labels[name] for name in sorted(sample.labels)),
        ): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


async def test_a_job_from_claim_to_end() -> None:
    metrics = Metrics(["q"], {"version": "1"})
    metrics.claimed(CLAIM)
    found = await samples(metrics)
    assert found["jobs", ("starting", "q")] == 1
    assert found["claims_total", ("q",)] == 1
    metrics.started(CLAIM)
    assert (await samples(metrics))["jobs", ("running", "q")] == 1
    gaps = ({"reason": "rotated"}, {"reason": "made up"})
    metrics.settled(settlement(CLAIM, Outcome(status=Status.SUCCEEDED), gaps=gaps))
    metrics.over(CLAIM)
    found = await samples(metrics)
    assert found["jobs", ("running", "q")] == 0
    assert found["jobs_ended_total", ("q", "", "succeeded")] == 1
    moves = {key[1]: value for key, value in found.items() if key[0] == "phase_transitions_total"}
    assert moves == {("queued", "q", "starting"): 1, ("starting", "q", "running"): 1, ("running", "q", "succeeded"): 1}
    times = {"queue_wait": 2, "start_latency": 3, "run": 3, "job": 8}
    for name, seconds in times.items():
        assert found[f"{name}_seconds_sum", ("q",)] == pytest.approx(seconds, abs=0.01), name
        assert found[f"{name}_seconds_count", ("q",)] == 1
    assert found["log_gaps_total", ("q", "rotated")] == found["log_gaps_total", ("q", "other")] == 1


async def test_a_retry_and_a_takeover() -> None:
    metrics = Metrics(["q"], {})
    metrics.claimed(CLAIM)
    failed = Outcome(status=Status.FAILED, reason="exit_code")
    metrics.settled(settlement(CLAIM, failed, Verdict.RETRY))
    metrics.over(CLAIM)
    held: Record = record_running(record_claimed(CLAIM, "c", "null", "log"), Where(), NOW)
    taken = replace(CLAIM, token="u", history=held)
    metrics.claimed(taken)
    metrics.settled(settlement(taken, failed, Verdict.BURY))
    metrics.over(taken)
    found = await samples(metrics)
    assert found["retries_total", ("job", "q")] == 1
    assert found["takeovers_total", ("q",)] == 1
    assert found["jobs_ended_total", ("q", "exit_code", "failed")] == 2
    assert found["phase_transitions_total", ("running", "q", "queued")] == 1
    assert found["phase_transitions_total", ("queued", "q", "starting")] == 1  # a takeover is no new start
    assert found["queue_wait_seconds_count", ("q",)] == 1
    assert found["start_latency_seconds_count", ("q",)] == 1
    assert found["job_seconds_count", ("q",)] == 1


async def test_labels_are_bounded() -> None:
    metrics = Metrics(["q"], {})
    strange = replace(CLAIM, queue="somebody's")
    metrics.claimed(strange)
    metrics.settled(settlement(strange, Outcome(status=Status.FAILED, reason="a text of a newer release")))
    metrics.over(strange)
    assert (await samples(metrics))["jobs_ended_total", ("other", "other", "failed")] == 1


async def test_how_things_stand() -> None:
    metrics, asked = Metrics(["q"], {}), 0

    async def backlog() -> dict[str, Backlog]:
        nonlocal asked
        asked += 1
        return {"q": Backlog(7, 3, 1.5)}

    metrics.ask_queue(backlog)
    others = {name: labels for name, (_, _, *labels) in MEASURES.items() if not name.startswith(("queue_", "event_"))}
    metrics.ask(lambda: [Measure(name, 2, tuple((label, "x") for label in others[name])) for name in others])
    for _ in range(2):
        found = await samples(metrics)
    assert asked == 1
    assert found["queue_jobs", ("q",)] == 7
    assert found["queue_running", ("q",)] == 3
    assert found["queue_oldest_seconds", ("q",)] == 1.5
    assert found["slots_used", ()] == found["api_retries_total", ("x", "x")] == 2


async def test_a_queue_that_is_away_is_not_shown() -> None:
    metrics = Metrics(["q"], {})

    async def backlog() -> dict[str, Backlog]:
        raise ConnectionError

    metrics.ask_queue(backlog)
    assert not [key for key in await samples(metrics) if key[0].startswith("queue_jobs")]
