"""Outcome variables as other things than text."""

from __future__ import annotations

import pytest

from enqueue.record import Outcome, Record
from enqueue.variables import Variables

FOUND = Variables(j='{"a": [1]}', i=" 42 ", f="1.5", yes="True", no="off", text="it is", lines="a\nb")


def test_they_are_a_mapping_of_text_in_records_too() -> None:
    record = Record.loads(Record(id="x", variables=FOUND).dumps())
    assert record.variables == dict(FOUND)
    assert isinstance(record.variables, Variables)
    assert Outcome(status="succeeded", variables={"n": "3"}).variables.int("n") == 3  # type: ignore[arg-type]
    assert record.model_dump(mode="json")["variables"] == dict(FOUND)


def test_readers() -> None:
    assert FOUND.json("j") == {"a": [1]}
    assert (FOUND.int("i"), FOUND.float("f"), FOUND.float("i")) == (42, 1.5, 42.0)
    assert (FOUND.bool("yes"), FOUND.bool("no")) == (True, False)
    assert FOUND.lines("lines") == ["a", "b"]


@pytest.mark.parametrize("kind", ["json", "int", "float", "bool"])
def test_what_doesnt_fit_is_told_without_the_value(kind: str) -> None:
    with pytest.raises(ValueError, match="'text'") as raised:
        getattr(FOUND, kind)("text")
    assert "it is" not in str(raised.value)
    with pytest.raises(KeyError):
        getattr(FOUND, kind)("nothing")


def test_a_document_that_is_nested_too_deeply_is_a_value_that_doesnt_fit() -> None:
    with pytest.raises(ValueError, match="'deep' is no JSON that can be read: it is nested too deeply"):
        Variables(deep="[" * 50_000).json("deep")
