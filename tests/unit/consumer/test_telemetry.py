from __future__ import annotations

import json
import logging

import pytest
import structlog

from consumer import telemetry


@pytest.mark.usefixtures("own_log")
def test_the_level_of_the_log_may_change(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.set_up_logging("info", "json")
    log = structlog.get_logger()
    log.info("first")
    telemetry.set_level("error")
    log.warning("second")
    log.error("third")
    said = capsys.readouterr().err
    assert "first" in said
    assert "second" not in said
    assert "third" in said


@pytest.mark.usefixtures("own_log")
def test_each_line_says_which_job_whoever_writes_it(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.set_up_logging("info", "json", ["s3cret-word"])
    with structlog.contextvars.bound_contextvars(job="j", queue="q", pod="p"):
        structlog.get_logger().info("one")
        logging.getLogger("consumer.executors.x").info("%s of s3cret-word", "two")
        try:
            raise ValueError("broken")
        except ValueError:
            logging.getLogger("aiohttp").exception("three")
    logging.getLogger("aiohttp").info("too much")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == ["one", "two of ***", "three"]
    assert all((line["job"], line["queue"], line["pod"]) == ("j", "q", "p") for line in lines)
    assert [line["level"] for line in lines] == ["info", "info", "error"]
    assert "ValueError: broken" in lines[2]["exception"]
