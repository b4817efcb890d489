"""Blocks of whole lines from whatever chunks come."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from consumer.logs.lines import Lines

CHUNKS = st.lists(st.text("ab\n", max_size=12).map(str.encode), max_size=12)


@given(CHUNKS)
def test_nothing_is_lost_and_blocks_end_with_a_line(chunks: list[bytes]) -> None:
    lines = Lines()
    blocks = [lines.feed(chunk) for chunk in chunks]
    assert all(not block or block.endswith(b"\n") for block in blocks)
    rest = lines.finish()
    assert b"\n" not in rest
    assert b"".join(blocks) + rest == b"".join(chunks)


@given(CHUNKS)
def test_a_line_comes_with_the_chunk_that_ends_it(chunks: list[bytes]) -> None:
    lines, seen, given_back = Lines(), b"", b""
    for chunk in chunks:
        seen += chunk
        given_back += lines.feed(chunk)
        assert given_back == seen[: seen.rfind(b"\n") + 1]


@given(CHUNKS)
def test_long_lines_are_passed_on_in_pieces(chunks: list[bytes]) -> None:
    lines = Lines(long_line=4)
    out = b""
    fed = b""
    for chunk in chunks:
        out += lines.feed(chunk)
        fed += chunk
        assert len(fed) - len(out) <= 4
    assert out + lines.finish() == fed


def test_a_very_long_line_is_not_held() -> None:
    lines = Lines()
    piece = b"x" * 65536
    out = [lines.feed(piece) for _ in range(160)]
    assert sum(map(len, out)) == 160 * 65536
    assert out[-1] is piece
    assert lines.feed(b"end\nnext") == b"end\n"
    assert lines.finish() == b"next"


def test_a_block_of_whole_lines_is_passed_on_as_it_is() -> None:
    block = b"a\nb\n"
    assert Lines().feed(block) is block
