"""Outcome variables out of the log."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.logs import directives as module
from consumer.logs.commands import MAX_MASK, MAX_MASKS, MAX_NOTICES
from consumer.logs.directives import Directives
from consumer.logs.lines import Lines
from consumer.logs.mask import Mask


def run(text: str | bytes, directives: Directives | None = None) -> tuple[dict[str, str], str]:
    directives = directives or Directives()
    data = text.encode() if isinstance(text, str) else text
    out = directives.feed(data) + directives.finish()
    return directives.variables, out.decode()


@pytest.mark.parametrize(
    ("line", "variables"),
    [
        ("::set-outcome-var a=1", {"a": "1"}),
        ("::set-outcome-var hello-world=42", {"hello-world": "42"}),
        ("::set-outcome-var\ta=tab", {"a": "tab"}),
        ("::set-outcome-var a=", {"a": ""}),
        ("::set-outcome-var a= x = y ", {"a": " x = y "}),
        ("::set-outcome-var a=x\r", {"a": "x"}),
        ("::set-outcome-var a=\xc3\x28".encode("latin-1").decode("latin-1"), {"a": "\xc3("}),
    ],
)
def test_set(line: str, variables: dict[str, str]) -> None:
    assert run(f"before\n{line}\nafter\n") == (variables, "before\nafter\n")
    assert run(line) == (variables, "")


@pytest.mark.parametrize(
    "line",
    [
        "set-outcome-var a=1",
        " ::set-outcome-var a=1",
        "::set-outcome-var  a=1",
        "::set-outcome-var a",
        "::set-outcome-var a.b=1",
        "::set-outcome-var é=1",
        "::set-outcome-var =1",
        "::set-var foo=bar",
        "::end-multiline-outcome-var",
        "::start-multiline-outcome-var",
        "::start-multiline-outcome-var ",
        "+ echo ::set-outcome-var a=1",
        "::",
    ],
)
def test_ordinary_lines(line: str) -> None:
    assert run(line + "\n") == ({}, line + "\n")


def test_last_set_wins() -> None:
    assert run("::set-outcome-var a=1\n::set-outcome-var a=2\n") == ({"a": "2"}, "")


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert run(b"::set-outcome-var a=\xff!\n") == ({"a": "�!"}, "")


def test_a_block() -> None:
    text = '::start-multiline-outcome-var json\n{\n  "a": 1\r\n}\n::end-multiline-outcome-var\nlog\n'
    assert run(text) == ({"json": '{\n  "a": 1\n}'}, "log\n")


def test_trace_lines_in_a_block_are_its_content() -> None:
    text = "::start-multiline-outcome-var diff\n- a\n+ b\n::set-outcome-var x=1\n::end-multiline-outcome-var\n"
    assert run(text) == ({"diff": "- a\n+ b\n::set-outcome-var x=1"}, "")


def test_nested_blocks() -> None:
    inner = "::start-multiline-outcome-var two\nfoo\nfoo\nfoo\n::end-multiline-outcome-var\n"
    text = f"::start-multiline-outcome-var one\nhello\nworld\n{inner}foo\nbar\n::end-multiline-outcome-var\n"
    variables, log = run(text + "::end-multiline-outcome-var\n")
    assert variables == {"one": "hello\nworld\nfoo\nbar", "two": "foo\nfoo\nfoo"}
    assert log == "::end-multiline-outcome-var\n"


def test_start_without_a_key_then_lines_and_end() -> None:
    text = "::start-multiline-outcome-var\nx\n::end-multiline-outcome-var\n"
    assert run(text) == ({}, text)


def test_open_again_goes_on_without_a_separator() -> None:
    one = "::start-multiline-outcome-var a ignored\nx\n::end-multiline-outcome-var and more\n"
    assert run(one + one) == ({"a": "xx"}, "")


def test_an_open_block_keeps_its_newline() -> None:
    assert run("::start-multiline-outcome-var a\nx\n") == ({"a": "x\n"}, "")
    assert run("::start-multiline-outcome-var a\nx") == ({"a": "x"}, "")


def test_too_long() -> None:
    big = "v" * (module.MAX_VALUE + 1)
    variables, log = run(f"::set-outcome-var a=1\n::set-outcome-var a={big}\nrest\n")
    assert variables == {"a": "1"}
    assert log == "::error::outcome variable 'a' refused: its value has more than 65536 bytes\nrest\n"
    assert run("::set-outcome-var a=" + big[1:])[0] == {"a": big[1:]}


def test_a_block_that_is_too_long_gives_its_lines_back_to_the_log() -> None:
    line = "v" * 1023 + "\n"
    text = "::start-multiline-outcome-var a\n" + line * 64 + "over\nmore\n::end-multiline-outcome-var\nrest\n"
    variables, log = run(text)
    assert variables == {}
    assert log == "::error::outcome variable 'a' refused: its value has more than 65536 bytes\nover\nmore\nrest\n"


def test_too_many_and_too_much() -> None:
    variables, log = run("".join(f"::set-outcome-var k{i}=\n" for i in range(1001)) + "::set-outcome-var k0=x\n")
    assert len(variables) == 1000
    assert variables["k0"] == "x"
    assert log == "::error::outcome variable 'k1000' refused: there are 1000 variables already\n"
    value = "v" * 60_000
    variables, log = run("".join(f"::set-outcome-var k{i}={value}\n" for i in range(5)))
    assert list(variables) == ["k0", "k1", "k2", "k3"]
    assert "'k4' refused: all variables together would have more than 262144 bytes" in log
    assert "its name has 300 bytes" in run("::set-outcome-var " + "k" * 300 + "=\n")[1]


def test_room_is_given_back() -> None:
    directives = Directives()
    for _ in range(100):
        run("::set-outcome-var a=" + "v" * 60_000 + "\n", directives)
        run("::start-multiline-outcome-var b\n" + "v" * 70_000 + "\n::end-multiline-outcome-var\n", directives)
    assert list(directives.variables) == ["a"]
    assert directives._total == 60_001


def test_a_block_without_directives_is_passed_on_as_it_is() -> None:
    block = b"a :: b\n::x\n"
    plain = b"a :: b\n"
    assert Directives().feed(plain) is plain
    assert Directives().feed(block) == block


LINE = st.sampled_from(
    [
        "::set-outcome-var a=1", "::set-outcome-var b=", "::start-multiline-outcome-var a", "::error::x", "text", "",
        "::start-multiline-outcome-var c", "::end-multiline-outcome-var", "+ trace", "::start-multiline-outcome-var",
    ]
)  # fmt: skip


@given(st.lists(LINE, max_size=20), st.lists(st.integers(0, 10**6), max_size=8))
def test_any_split_into_blocks_of_lines_reads_the_same(text: list[str], cuts: list[int]) -> None:
    data = "".join(line + "\n" for line in text).encode()
    lines, directives, out = Lines(), Directives(), b""
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    for a, b in zip([0, *places], [*places, len(data)], strict=True):
        out += directives.feed(lines.feed(data[a:b]))
    assert (directives.variables, out.decode()) == run(data)


def test_pieces_of_a_long_line_are_no_new_lines() -> None:
    directives = Directives()
    assert directives.feed(b"begin") == b"begin"
    assert directives.feed(b"::set-outcome-var a=1\nnext\n") == b"::set-outcome-var a=1\nnext\n"
    big = b"::set-outcome-var a=" + b"v" * 2_000_000
    assert b"refused" in directives.feed(big)
    assert directives.feed(b"rest of it") == b""
    assert directives.feed(b" and its end\nnext\n") == b"next\n"
    assert directives.variables == {}


@pytest.mark.parametrize(
    ("line", "progress"),
    [
        ("::progress 40 copying files", (40.0, "copying files")),
        ("::progress 0", (0.0, "")),
        ("::progress 99.5% nearly there\r", (99.5, "nearly there")),
        ("::progress\t100", (100.0, "")),
        (f"::progress 1 {'x' * 600}", (1.0, "x" * 600)),
    ],
)
def test_progress_is_taken_out_of_the_log(line: str, progress: tuple[float, str]) -> None:
    told: list[int] = []
    directives = Directives(lambda: told.append(1))
    assert run(f"{line}\nnext\n", directives) == ({}, "next\n")
    assert directives.progress == progress
    assert told
    assert not directives.holds


@pytest.mark.parametrize("line", ["::progress", "::progress soon", "::progress 101", "::progress -1", "::progress 4x"])
def test_what_is_no_progress_stays_in_the_log(line: str) -> None:
    directives = Directives()
    assert run(f"{line}\n", directives)[1] == f"{line}\n"
    assert directives.progress is None


def test_the_last_progress_counts_and_a_block_keeps_its_lines() -> None:
    directives = Directives()
    text = "::progress 1\n::start-multiline-outcome-var a\n::progress 2\n::end-multiline-outcome-var\n::progress 3 c\n"
    assert run(text, directives)[0] == {"a": "::progress 2"}
    assert directives.progress == (3.0, "c")


def learning(text: str, cuts: tuple[int, ...] = ()) -> tuple[str, Directives, Mask]:
    """What the log's two processors make of lines, in blocks that end behind so many of them."""
    mask = Mask(["known-secret"])
    directives, lines = Directives(learn=mask.learn), text.splitlines(keepends=True)
    out = b""
    for begin, end in zip((0, *cuts), (*cuts, len(lines)), strict=True):
        out += mask.feed(directives.feed("".join(lines[begin:end]).encode()))
    out += mask.feed(directives.finish()) + mask.finish()
    return out.decode(), directives, mask


ADDED = """before s3cret-added
::add-mask s3cret-added
s3cret-added and known-secret
::set-outcome-var a=s3cret-added
::start-multiline-outcome-var block
one
::add-mask::two%0Alines here
two
lines here
::end-multiline-outcome-var
two
lines here
::add-mask xy
end
"""


@given(st.sets(st.integers(1, 14)))
def test_add_mask_counts_from_the_next_line_on_however_the_log_is_cut(cuts: set[int]) -> None:
    out, directives, mask = learning(ADDED, tuple(sorted(cuts)))
    refused = "::error::a mask is refused: its value has less than 3 bytes\n"
    assert out == f"before s3cret-added\n*** and ***\n***\n{refused}end\n"
    assert mask.mask_text(directives.variables["a"]) == "***"
    assert directives.variables["block"] == "one\ntwo\nlines here"
    assert mask.mask_text(directives.variables["block"]) == "one\n***"


def test_masks_are_bounded() -> None:
    many = "".join(f"::add-mask <{n}-value>\n" for n in range(MAX_MASKS + 1))
    out, directives, _ = learning(many + "::add-mask " + "x" * (MAX_MASK + 1) + f"\n<0-value> <{MAX_MASKS}-value>\n")
    assert out.splitlines()[-1] == f"*** <{MAX_MASKS}-value>"
    assert [n.message for n in directives.notices] == [f"a mask is refused: there are {MAX_MASKS} already"] * 2


@pytest.mark.parametrize(
    ("line", "level", "text"),
    [
        ("::error::it broke", "error", "it broke"),
        ("::error it broke\r", "error", "it broke"),
        ("::warning file=app/a.py,line=3,title=Old::use b%0Anot a", "warning", "app/a.py:3: Old: use b\nnot a"),
        ("::notice file=a,b::c", "notice", "file=a,b::c"),
        ("::notice time is 10::30", "notice", "time is 10::30"),
        ("::error line=x::y", "error", "y"),
        ("::error title=Build: no,file=C:\\a.py::x: y::z", "error", "C:\\a.py: Build: no: x: y::z"),
        ("::error ::it broke", "error", "it broke"),
    ],
)
def test_notices_are_collected_and_stay_in_the_log(line: str, level: str, text: str) -> None:
    directives = Directives()
    assert run(line + "\n", directives) == ({}, line + "\n")
    assert [(notice.level, notice.text) for notice in directives.notices] == [(level, text)]


def test_notices_are_bounded_and_refusals_are_among_them() -> None:
    directives = Directives()
    run("::set-outcome-var a=" + "x" * (module.MAX_VALUE + 1) + "\n" + "::warning w\n" * 60, directives)
    assert [n.level for n in directives.notices] == ["error"] + ["warning"] * (MAX_NOTICES - 1)
    assert directives.further_notices == 11


def test_a_refusal_is_one_line_whatever_the_job_said() -> None:
    directives = Directives(ask=lambda line: (True, "unknown field 'a\r\n::set-outcome-var b=c'"))
    assert run("::enqueue {}\n", directives) == (
        {},
        "::error::enqueue refused: unknown field 'a%0D%0A::set-outcome-var b=c'\n",
    )


@pytest.mark.parametrize("line", ["::errors x", "::error", "::group::a", "::endgroup::", "::add-masks x", " ::error x"])
def test_no_notice(line: str) -> None:
    directives = Directives()
    assert run(line + "\n", directives) == ({}, line + "\n")
    assert directives.notices == []


def test_of_opslevels_jobs_a_shells_trace_is_no_part_of_a_block() -> None:
    text = "::start-multiline-outcome-var a\n+ echo x\nx\n++ y\n+ echo ::end-multiline-outcome-var\n"
    found, log = run(text + "::end-multiline-outcome-var\n", Directives(traced=True))
    assert found == {"a": "x\n++ y"}
    assert log == "+ echo x\n+ echo ::end-multiline-outcome-var\n"
