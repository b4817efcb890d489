"""The file of outcome variables: what counts, what is refused, and what a file that lost its beginning still says."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.logs.directives import MAX_NAME, MAX_TOTAL, MAX_VALUE, MAX_VARIABLES
from consumer.outcome_file import OutcomeFile, parse


def read(data: bytes | str, *, cut: bool = False) -> dict[str, str]:
    return dict(parse(data, cut=cut).variables)


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        ("", {}),
        ("\n\n", {}),
        ("a=1\n", {"a": "1"}),
        ("a=1", {"a": "1"}),
        ("a=\n", {"a": ""}),
        ("a=1\r\nb-2=x y = z\r\n", {"a": "1", "b-2": "x y = z"}),
        ("a=1\na=2\n", {"a": "2"}),
        ("a=<<EOF\n", {"a": "<<EOF"}),
        ("a<<EOF\none\n\ntwo=2\nEOF\nb=3\n", {"a": "one\n\ntwo=2", "b": "3"}),
        ("a<<EOF\nEOF", {"a": ""}),
        ("a<< END \n EOF\nEND\n", {"a": " EOF"}),
        ("a<<E\r\none\r\nE\r\n", {"a": "one"}),
        ("a= 1 \n", {"a": " 1 "}),
    ],
)
def test_assignments(text: str, variables: dict[str, str]) -> None:
    assert parse(text) == parse(text.encode()) == OutcomeFile(tuple(variables.items()))


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("hello\nb=2", "line 1 is neither name=value nor name<<WORD"),
        ("b=2\n\n a=1", "line 3 is neither name=value nor name<<WORD"),
        ("b=2\n=1", "line 2 is neither name=value nor name<<WORD"),
        ("b=2\né=1", "line 2 is neither name=value nor name<<WORD"),
        ("b=2\na<<", "line 2 is neither name=value nor name<<WORD"),
        ("b=2\na<<EOF\nx", "the variable 'a' lacks its last line EOF"),
        (f"b=2\n{'n' * (MAX_NAME + 1)}=1", f"has {MAX_NAME + 1} bytes, {MAX_NAME} are allowed"),
        (f"b=2\na={'x' * (MAX_VALUE + 1)}", f"the variable 'a' has more than {MAX_VALUE} bytes"),
    ],
)
def test_what_cannot_be_used_is_told_and_the_rest_counts(text: str, note: str) -> None:
    found = parse(text)
    assert dict(found.variables) == {"b": "2"}
    assert found.note is not None
    assert found.note.startswith("LONGSHORE_OUTCOME: ")
    assert note in found.note


def test_number_and_sum_are_bounded() -> None:
    many = parse("".join(f"v{i}=\n" for i in range(MAX_VARIABLES + 1)))
    assert len(many.variables) == MAX_VARIABLES
    assert "more than 1000 variables" in (many.note or "")
    much = parse("".join(f"v{i}={'x' * MAX_VALUE}\n" for i in range(MAX_TOTAL // MAX_VALUE + 1)))
    assert len(much.variables) == MAX_TOTAL // MAX_VALUE - 1
    assert "all variables together" in (much.note or "")


def test_a_replaced_value_frees_its_room() -> None:
    again = "".join(f"a={'x' * (MAX_VALUE - i)}\n" for i in range(8))
    assert parse(again).problems == ()
    assert read(again) == {"a": "x" * (MAX_VALUE - 7)}


def test_many_problems_are_told_in_short() -> None:
    note = parse("x\n" * 10).note
    assert note is not None
    assert note.count("line") == 3
    assert note.endswith("and 7 more")


@pytest.mark.parametrize(
    ("end", "variables"),
    [
        ("ue\nb=2\n", {"b": "2"}),
        ("a=1\nb=2\n", {"b": "2"}),  # it may have been data=1
        ("ne\nx=not a variable\nEOF\nb=2\nc<<E\ny\nE\n", {"b": "2", "c": "y"}),
        ("x=1\nc<<E\nEOF\nE\nb=2\n", {"b": "2", "c": "EOF"}),
        ("ne\nx=not a variable\ny<<Z\nEOF\nb=2\n", {}),
        ("only the rest of one value", {}),
    ],
)
def test_a_file_that_lost_its_beginning(end: str, variables: dict[str, str]) -> None:
    found = parse(end, cut=True)
    assert dict(found.variables) == variables
    assert found.note == "LONGSHORE_OUTCOME: only the file's last 4,096 bytes are read, what stood before is lost"


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.text("xy=\n<", max_size=12))),
    st.integers(0, 200),
    st.integers(0, 200),
)
def test_what_a_file_cut_at_both_ends_says_is_true(pairs: list[tuple[str, str]], at: int, kept: int) -> None:
    """Each variable read from the middle of a file has a value that the file gives it, be it not the last one."""
    given = {pair for end in range(len(pairs)) for pair in read(_blocks(pairs[: end + 1])).items()}
    assert set(parse(_blocks(pairs)[at:][:kept], kept=kept).variables) <= given


def _blocks(pairs: list[tuple[str, str]]) -> str:
    return "".join(f"{name}<<EOF\n{value}\nEOF\n" for name, value in pairs)


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert read(b"a=\xff\x00b\n") == {"a": "\ufffd\x00b"}


@given(st.binary(max_size=200) | st.text("a=<\nE \r", max_size=60).map(str.encode), st.booleans())
def test_any_bytes_can_be_read(data: bytes, cut: bool) -> None:
    found = parse(data, cut=cut)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", name) and "\r" not in value[-1:] for name, value in found.variables)
    assert bool(found.problems) == (found.note is not None)


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.text("xy=\n<", max_size=12))), st.integers(0, 200))
def test_what_a_cut_file_says_is_true(pairs: list[tuple[str, str]], at: int) -> None:
    """Each variable read from a file's end has a value that the whole file gives it."""
    text = "".join(f"{name}<<EOF\n{value}\nEOF\n" for name, value in pairs)
    whole = read(text)
    rest = read(text[at:], cut=at > 0)
    assert rest.items() <= whole.items()


def test_progress_in_the_file_is_the_last_one_told() -> None:
    told = parse(b"::progress 10 begun\nA=1\n::progress 90.5% nearly\n")
    assert (told.variables, told.progress, told.problems) == ((("A", "1"),), (90.5, "nearly"), ())
    assert parse(b"::progress 101 too far\n").progress is None
    assert parse(b"A=1\n").progress is None
