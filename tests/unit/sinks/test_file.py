"""Files of logs: names that can't leave their directory, modes, age."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from pydantic import ValidationError

from consumer.settings import Settings
from consumer.settings_sinks import Files
from consumer.sinks.file import FileTarget, clean
from consumer.sinks.hand import Hand
from consumer.storage_path import LONGEST, path_of, safe
from consumer.storing import Away


def test_a_name_becomes_one_safe_part_of_a_path() -> None:
    assert safe("a-b_c.9") == "a-b_c.9"
    assert safe("..") == "~2E."
    assert safe(".hidden") == "~2Ehidden"
    assert safe("") == "~"
    assert safe("a/b\0ü\ud800") == "a~2Fb~00~C3~BC~ED~A0~80"
    assert safe("~") == "~7E"
    assert len(safe("x" * 5000)) == LONGEST
    assert safe("x" * 5000) != safe("x" * 5001)
    assert path_of("{queue}/{job}/{attempt}.log", "../q", "{job}", 3) == "~2E.~2Fq/~7Bjob~7D/3.log"


@pytest.mark.parametrize("path", ["{job}.log", "/x/{job}/{attempt}", "../{job}/{attempt}", "{job}//{attempt}", "{a}"])
def test_a_template_that_would_mix_or_leave_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match=r"must be|must hold|may hold"):
        Files(path=path)


def test_a_sink_without_its_place_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"files\.directory: is needed"):
        Settings(logs={"sinks": ["record", "file"]})
    with pytest.raises(ValidationError, match=r"s3\.bucket: is needed"):
        Settings(logs={"allowed_sinks": ["s3"]})


async def test_files_are_ours_alone_and_a_link_is_not_followed(tmp_path: Path) -> None:
    target = FileTarget(tmp_path / "logs", "q/j/1.log", Hand("test"), fresh=True)
    await target.put(0, b"text", last=True)
    await target.close(4)
    path = tmp_path / "logs/q/j/1.log"
    assert target.url == path.as_uri()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (path.parent, tmp_path / "logs")} == {0o700}
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Away, match="symbolic link"):
        await FileTarget(tmp_path / "logs", "q/j/1.log", Hand("test"), fresh=True).stored()
    assert not (tmp_path / "elsewhere").exists()


def test_what_is_old_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    stranger.write_text("kept")
    logs = tmp_path / "logs"
    (logs / "a").mkdir(parents=True)
    (logs / "b").mkdir()
    (logs / "a/old").touch()
    (logs / "b/young").touch()
    (logs / "b/link").symlink_to(stranger)
    for path in (logs / "a/old", stranger, logs / "a"):
        os.utime(path, (1, 1))
    assert clean(logs, 3600) == 1
    assert sorted(path.name for path in logs.rglob("*")) == ["a", "b", "link", "young"]
    os.utime(logs / "a", (1, 1))
    clean(logs, 3600)
    assert sorted(path.name for path in logs.rglob("*")) == ["b", "link", "young"]
    assert stranger.read_text() == "kept"
