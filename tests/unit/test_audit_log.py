"""The audit log is read whole, however it is rotated and written meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.audit_log import AuditLog


def test_lines_from_now_on_once_each_across_rotations(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"

    def write(text: str) -> None:
        with path.open("a") as file:
            file.write(text)

    def rotate(at: str) -> None:
        path.rename(tmp_path / f"audit-{at}.log")
        path.touch()

    write("long ago\nbegun before")
    (tmp_path / "audit-2026-01-01T00-00-00.000.log").write_text("longer ago\n")
    log = AuditLog(path)
    assert log.read() == []
    write(", ended later\n1\n2\n3, not who")
    assert log.read() == [b"1\n", b"2\n"]
    write("le\n4\n")
    rotate("2026-01-02T00-00-00.000")
    write("5\n")
    rotate("2026-01-02T00-00-01.000")
    write("6\n")
    assert log.read() == [b"3, not whole\n", b"4\n", b"5\n", b"6\n"]
    write("7\n")
    assert log.read() == [b"7\n"]
    assert log.read() == []


def test_a_file_that_is_gone_before_it_was_read_is_no_silence(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.touch()
    log = AuditLog(path)
    path.rename(tmp_path / "kept")
    path.write_text("1\n")
    with pytest.raises(RuntimeError, match="requests may be missing"):
        log.read()
