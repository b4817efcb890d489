"""What the consumer itself has to hide."""

from __future__ import annotations

import io
import json
from weakref import ref

import pytest
import structlog

from consumer.logs.mask import Mask, current
from consumer.own_secrets import own_secrets
from consumer.settings import Settings
from consumer.telemetry import masked, set_up_logging


def test_passwords_in_urls_and_variables_that_are_named_like_secrets() -> None:
    settings = Settings(queue_url="redis://user:p%40ssword@host:6379/0", records_url="rediss://:records-pass@h")
    environment = {
        "AWS_SECRET_ACCESS_KEY": "aws-secret-key",
        "SENTRY_DSN": "https://publickey@sentry.example/1",
        "CI_TOKEN": "short",
        "HTTPS_PROXY": "http://me:proxy-pass@proxy:3128",
        "HOME": "/home/somebody",
        "KEYBOARD": "nothing-secret",
        "BROKEN": "http://[x@y",
    }
    assert own_secrets(settings, environment) == {
        "p%40ssword", "p@ssword", "records-pass", "aws-secret-key", "https://publickey@sentry.example/1", "publickey",
        "proxy-pass",
    }  # fmt: skip


@pytest.mark.usefixtures("own_log")
def test_our_own_log_shows_neither_our_secrets_nor_those_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", out := io.StringIO())
    of_the_job = Mask(['of the "job"'])
    token = current.set(ref(of_the_job))
    try:
        set_up_logging("info", "json", ["queue-password"])
        structlog.get_logger().warning("odd", error='of the "job"', at="redis://:queue-password@host")
    finally:
        current.reset(token)
    said = json.loads(out.getvalue())
    assert (said["error"], said["at"]) == ("***", "redis://:***@host")
    assert masked(Mask(), b"bytes") == "bytes"
