"""What a job may ask of the consumer itself."""

from __future__ import annotations

from pathlib import Path

from consumer.executors.null import NullExecutor
from consumer.executors.process.executor import ProcessExecutor
from consumer.settings import Settings
from consumer.wishes import refused_wishes
from enqueue.job import Job
from enqueue.record import Reason


def test_a_job_may_name_the_sinks_that_the_operator_allows() -> None:
    settings = Settings(logs={"allowed_sinks": ["console"]})
    assert not list(refused_wishes(Job(commands=["true"], logs=["record", "console"]), settings, NullExecutor()))
    assert not list(refused_wishes(Job(commands=["true"], logs=[]), settings, NullExecutor()))
    [(reason, text)] = refused_wishes(Job(commands=["true"], logs=["file"]), settings, NullExecutor())
    assert reason is Reason.REFUSED
    assert text == "logs: 'file' isn't allowed here (logs.allowed_sinks); allowed: console, record"


def test_a_job_gets_outputs_only_where_they_can_be_kept(tmp_path: Path) -> None:
    nowhere = Settings()
    here = Settings(outputs={"store": "file", "max_bytes": 10}, files={"directory": tmp_path})
    process = ProcessExecutor(here.process, "test")
    job = Job.load({"commands": ["true"], "outputs": True})
    assert job.outputs is not None
    assert Job.load({"commands": ["true"], "outputs": False}) == Job(commands=["true"])
    assert Job.load(job.payload()) == job
    assert [text for _, text in refused_wishes(job, nowhere, process)] == [
        "outputs: there is nowhere to keep them here (outputs.store)"
    ]
    assert [text for _, text in refused_wishes(job, here, NullExecutor())] == [
        "outputs: the null executor can't collect them"
    ]
    assert not list(refused_wishes(job, here, process))
    more = Job.load({"commands": ["true"], "outputs": {"max_bytes": 11}})
    assert [text for _, text in refused_wishes(more, here, process)] == [
        "outputs: max_bytes: is more than the 10 allowed here (outputs.max_bytes)"
    ]
