from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enqueue.terminal import shown

RED, RESET = b"\x1b[31m", b"\x1b[0m"


@pytest.mark.parametrize(
    ("line", "plain", "coloured"),
    [
        (b"plain \xc3\xa9\ttext", b"plain \xc3\xa9\ttext", b"plain \xc3\xa9\ttext"),
        (RED + b"bad" + RESET, b"bad", RED + b"bad" + RESET + RESET),
        (b"\x1b[1;38;5;208;48;2;1;2;3mx", b"x", b"\x1b[1;38;5;208;48;2;1;2;3mx" + RESET),
        (b"\x1b[mx", b"x", b"\x1b[0mx" + RESET),
        (b"a\x1b[2Jb\x1b[1;1Hc\x1b[?1049h", b"abc", b"abc"),
        (b"\x1b]0;title\x07x\x1b]8;;http://evil\x1b\\link", b"xlink", b"xlink"),
        (b"\x1b]0;never ends", b"0;never ends", b"0;never ends"),
        (b"\x1bPq\x1b\\x\x1bc", b"x", b"x"),
        (b"hide\x1b[8mme\x1b[31;8mx", b"hidemex", b"hideme\x1b[31mx" + RESET),
        (b"\x1b[>4;1mx\x1b[38;5mx", b"xx", b"xx" + RESET),
        (b"over\rwritten\x08\x00\x7f\r", b"over^Mwritten^H^@^?", b"over^Mwritten^H^@^?"),
        ("\u202eexe\u2066\x9b31mx".encode(), b"<U+202E>exe<U+2066>x", b"<U+202E>exe<U+2066>\x1b[31mx" + RESET),
        (b"\xff\xfe", b"\xff\xfe", "\ufffd\ufffd".encode()),
    ],
)
def test_what_passes(line: bytes, plain: bytes, coloured: bytes) -> None:
    assert (shown(line, colours=False), shown(line, colours=True)) == (plain, coloured)


_STEERING = ["\x1b", "\x1b[", "\x1b]", "\x9b", "31m", ";", "8m", "\x07", "\x1b\\", "H"]
_PIECES = st.one_of(st.text(), st.sampled_from(_STEERING))


@given(st.lists(_PIECES).map("".join))
def test_nothing_that_steers_a_terminal_passes_but_colours(text: str) -> None:
    line = text.replace("\n", "").encode("utf-8", "replace")
    for colours in (False, True):
        out = shown(line, colours=colours).decode()
        out = re.sub(r"\x1b\[[\d;]*m", "", out) if colours else out
        assert not re.search("[\x00-\x08\x0a-\x1f\x7f-\x9f]", out)
