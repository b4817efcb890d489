"""What a terminal shows of a job's groups and notices."""

from __future__ import annotations

from enqueue.groups import Groups


def test_groups_are_indented_and_notices_coloured() -> None:
    lines = [b"a", b"::group::Build it", b"b", b"::error file=x.py,line=3::bad: x=1::y", b"::endgroup::", b"c"]
    lines += [b"::group Test", b"::warning slow", b"::endgroup", b"::unknown::x", b" ::group::x", b""]
    lines += [b"::error title=Build: no::bad", b"::error ::bad", b"::error::a=b::c"]
    groups = Groups()
    assert [groups.shown(line) for line in lines] == [
        b"a", b"\x1b[1m> Build it\x1b[0m", b"  b", b"  \x1b[31merror: bad: x=1::y\x1b[0m", None, b"c",
        b"\x1b[1m> Test\x1b[0m", b"  \x1b[33mwarning: slow\x1b[0m", None, b"::unknown::x", b" ::group::x", b"",
        b"\x1b[31merror: bad\x1b[0m", b"\x1b[31merror: bad\x1b[0m", b"\x1b[31merror: a=b::c\x1b[0m",
    ]  # fmt: skip
