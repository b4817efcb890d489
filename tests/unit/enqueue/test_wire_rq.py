from __future__ import annotations

import datetime
import json
import os
import pickle
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enqueue.errors import InvalidJob
from enqueue.job import Job
from enqueue.wire import rq as wire

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner),
)


@given(PLAIN, st.integers(min_value=3, max_value=5))
def test_plain_values_are_read_from_any_pickle(value: object, protocol: int) -> None:
    assert wire.loads(pickle.dumps(value, protocol=protocol)) == (value, "pickle")


class Evil:
    def __reduce__(self) -> tuple:
        return os.system, ("touch /tmp/longshore-was-here",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("value", [Evil(), datetime.datetime.now(datetime.UTC), [{"a": Evil()}], Job, len])
def test_a_pickle_that_imports_anything_is_refused(value: object, protocol: int) -> None:
    with pytest.raises(ValueError, match="wants to import"):
        wire.loads(pickle.dumps(value, protocol=protocol))


@pytest.mark.parametrize(
    "blob",
    [
        b"\x80\x04Nr\xff\xff\xff\x7f.",  # would make the memo 32 GB large
        b"\x80\x04\x8cR",
        b"\x80\x04" + b"(" * 100,
        b"\x80\x02cos\nsystem\n(S'x'\ntR.",
        b"\x80\x04\x82\x01.",
        b"\x80\x04P1\n.",
        b"\x80\x04]]b.",
        b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b".",
        b"\x80\x04",
        b"\x80\x04N",
    ],
)
def test_hostile_and_broken_pickles_are_refused(blob: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        wire.loads(blob)


@pytest.mark.parametrize("blob", [b"", b"{", b"NaN", b"[" * 100_000, b"\xff\xfe", b"1" * 10_000])
def test_broken_json_is_refused(blob: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        wire.loads(blob)


def test_a_zlib_bomb_stays_small() -> None:
    bomb = zlib.compress(b"\0" * 100_000_000)
    with pytest.raises(ValueError, match="inflates to more than"):
        wire.inflate(bomb, 1_000_000)


def data(call: object, dump: object = pickle.dumps) -> bytes:
    return zlib.compress(dump(call))  # type: ignore[operator]


def test_payloads_of_both_serializers_are_read() -> None:
    job = {"commands": ["echo"]}
    assert wire.read_payload(data(("longshore.job", None, (job,), {})))[1] == "pickle"
    assert wire.read_payload(data(["longshore.job", None, [job], {}], lambda v: json.dumps(v).encode()))[1] == "json"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (("os.system", None, ("x",), {}), "function: this consumer runs 'longshore.job', not 'os.system'"),
        (("longshore.job", None, (), {"commands": ["x"]}), "must hold exactly one object, the Job"),
        (("longshore.job", None, ({}, {}), {}), "must hold exactly one object, the Job"),
        (("longshore.job", None, (["x"],), {}), "must be an object"),
        ({"commands": []}, "must be RQ's"),
        (("longshore.job", None, ({"comands": ["x"]},), {}), "did you mean 'commands'"),
        (("longshore.job", None, ({"commands": ["x"], "reply_to": "q"},), {}), "reply_to: is for Faktory"),
    ],
)
def test_payloads_that_are_no_call_of_ours_are_named(call: object, says: str) -> None:
    with pytest.raises(InvalidJob, match=says):
        wire.read_payload(data(call))


def test_meta_keeps_what_its_producer_wrote() -> None:
    value = wire.read_meta(pickle.dumps({"u": 1, "longshore": {"status": "old"}}))
    assert value is not None
    assert pickle.loads(wire.meta_with(value, {"status": "new"}, "pickle")) == {"u": 1, "longshore": {"status": "new"}}
    assert wire.read_meta(pickle.dumps({"when": datetime.datetime.now(datetime.UTC)})) is None
    assert wire.read_meta(b"") == {}
