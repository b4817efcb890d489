"""What a job may ask of the consumer itself."""

from __future__ import annotations

from consumer.settings import Settings
from consumer.wishes import refused_wishes
from enqueue.job import Job
from enqueue.record import Reason


def test_a_job_may_name_the_sinks_that_the_operator_allows() -> None:
    settings = Settings(logs={"allowed_sinks": ["console"]})
    assert not list(refused_wishes(Job(commands=["true"], logs=["record", "console"]), settings))
    assert not list(refused_wishes(Job(commands=["true"], logs=[]), settings))
    [(reason, text)] = refused_wishes(Job(commands=["true"], logs=["file"]), settings)
    assert reason is Reason.REFUSED
    assert text == "logs: 'file' isn't allowed here (logs.allowed_sinks); allowed: console, record"
