from __future__ import annotations

import pytest
import structlog

from consumer import telemetry


def test_the_level_of_the_log_may_change(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = structlog.get_config()
    monkeypatch.setattr(telemetry, "_least", 0)
    try:
        telemetry.set_up_logging("info", "json")
        log = structlog.get_logger()
        log.info("first")
        telemetry.set_level("error")
        log.warning("second")
        log.error("third")
    finally:
        structlog.configure(**before)
    said = capsys.readouterr().err
    assert "first" in said
    assert "second" not in said
    assert "third" in said
