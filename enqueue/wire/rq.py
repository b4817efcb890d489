"""RQ's keys and encodings, without I/O; shared by the producer and the consumer.

Source: the keys and fields that rq 2.6 to 2.12 write (`rq/job.py`, `rq/results.py`, `rq/registry.py`). Nothing is ever
imported or executed from a payload: pickles are read only if they hold plain values.
"""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import uuid
import zlib
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from enqueue.closed import kind_of
from enqueue.errors import InvalidJob
from enqueue.job import JOB_NAME, MAX_JOB_BYTES, Job
from enqueue.wire.call import Call, Load, the_job
from enqueue.wire.trace import current

Serializer = Literal["pickle", "json"]

WORKERS = "rq:workers"


def job_key(job_id: str) -> str:
    """The hash of a job."""
    return f"rq:job:{job_id}"


def queue_key(queue: str) -> str:
    """The list of a queue's job ids."""
    return f"rq:queue:{queue}"


def registry_key(kind: str, queue: str) -> str:
    """A sorted set of job ids: wip, finished, failed, canceled, scheduled, deferred."""
    return f"rq:{kind}:{queue}"


def worker_key(name: str) -> str:
    """The hash of a worker."""
    return f"rq:worker:{name}"


def utc(moment: float | None = None) -> str:
    """Seconds since the epoch (now, if None) in RQ's time format."""
    when = datetime.now(UTC) if moment is None else datetime.fromtimestamp(moment, UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def from_utc(text: bytes | str | None) -> float | None:
    """RQ's time format -> seconds since the epoch; None for what can't be read."""
    if not text:
        return None
    try:
        text = text.decode() if isinstance(text, bytes) else text
        return datetime.fromisoformat(text.replace("Z", "+00:00")).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def dumps(value: object, serializer: Serializer) -> bytes:
    """Encode plain values as a stock producer with this serializer reads them."""
    if serializer == "json":
        return json.dumps(value).encode()
    return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise ValueError(f"it wants to import {module[:60]}.{name[:60]}")


_FORBIDDEN = {
    "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4",
    "PERSID", "BINPERSID", "NEXT_BUFFER", "READONLY_BUFFER",
}  # fmt: skip


_PLAIN = frozenset(b"N\x88\x89}])(.ueast\x85\x86\x87\x94")  # opcodes without an argument
_SIZED = {ord("K"): 2, ord("M"): 3, ord("J"): 5, ord("G"): 9, ord("h"): 2, ord("j"): 5, 0x80: 2, 0x95: 9}
_COUNTED = {0x8C: 1, ord("X"): 4, 0x8D: 8, ord("C"): 1, ord("B"): 4, 0x8E: 8, 0x8A: 1}


def _is_modern_and_plain(blob: bytes) -> bool:
    """A quick look: only opcodes of protocol 4 and 5 that make plain values (none fills the memo by index)."""
    at, end = 0, len(blob)
    while at < end:
        opcode = blob[at]
        if opcode in _PLAIN:
            if opcode == 46:
                return True
            at += 1
        elif opcode in _SIZED:
            at += _SIZED[opcode]
        elif opcode in _COUNTED:
            width = _COUNTED[opcode]
            at += 1 + width + int.from_bytes(blob[at + 1 : at + 1 + width], "little")
        else:
            return False
    return False


def _plain_pickle(blob: bytes) -> Any:
    """Load a pickle of plain values. Raises ValueError, and never lets one import, call or allocate at will."""
    if not _is_modern_and_plain(blob):
        _inspect(blob)
    return _PlainUnpickler(io.BytesIO(blob)).load()


def _inspect(blob: bytes) -> None:
    """The long look, at every opcode. Raises ValueError that says what it wants."""
    imported: tuple[str, ...] = ()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(blob)):
        if "UNICODE" in opcode.name:
            imported = (*imported[-1:], str(argument)[:60])
        if opcode.name in _FORBIDDEN:
            name = str(argument).replace(" ", ".")[:120] if opcode.name == "GLOBAL" else ".".join(imported)
            raise ValueError(
                f"it wants to import {name}" if name else f"it holds more than plain values ({opcode.name})"
            )
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= int(argument or 0) <= count:
            raise ValueError("its memo is out of bounds")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} isn't JSON")


def loads(blob: bytes) -> tuple[Any, Serializer]:
    """Decode plain values written by either of RQ's serializers, and tell which one.

    Raises ValueError that says why a blob is refused.
    """
    if blob[:1] == b"\x80":
        try:
            return _plain_pickle(blob), "pickle"
        except ValueError:
            raise
        except Exception as error:
            raise ValueError(f"the pickle is broken ({type(error).__name__})") from None
    try:
        return json.loads(blob, parse_constant=_no_constant), "json"
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"it is neither JSON nor a pickle of plain values ({error})") from None


def inflate(blob: bytes, limit: int) -> bytes:
    """Decompress zlib data up to `limit` bytes; what isn't zlib stays as it is. Raises ValueError above the limit."""
    if len(blob) > limit:
        raise ValueError(f"it is larger than the {limit} bytes that are accepted")
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(blob, limit + 1)
    except zlib.error:
        return blob
    if len(data) > limit or inflater.unconsumed_tail:
        raise ValueError(f"it inflates to more than the {limit} bytes that are accepted")
    return data


def read_payload(data: bytes | None, limit: int = MAX_JOB_BYTES, load: Load = the_job) -> tuple[Job, Serializer]:
    """The Job in a job hash's `data`, and the producer's serializer. Raises InvalidJob that names the field."""
    call, serializer = read_call(data, limit)
    return suited(load(call)), serializer


def read_call(data: bytes | None, limit: int = MAX_JOB_BYTES) -> tuple[Call, Serializer]:
    """What a job hash's `data` calls, and the producer's serializer. Raises InvalidJob."""
    try:
        blob = inflate(data or b"", limit)
    except ValueError as error:
        raise InvalidJob(f"the payload is refused: {error}") from None
    try:
        call, serializer = loads(blob)
    except ValueError as error:
        if name := _first_text(blob):
            return Call(name, "function", pickled=blob, problem=str(error)), "pickle"
        raise InvalidJob(f"the payload is refused: {error}") from None
    if not isinstance(call, (list, tuple)) or len(call) != 4:
        raise InvalidJob(f"the payload must be RQ's [function, instance, args, kwargs], not {kind_of(call)}")
    function, instance, args, kwargs = call
    if instance is not None:
        raise InvalidJob("function: it is a method of an object; only functions can be called by name")
    if (
        not isinstance(args, (list, tuple))
        or not isinstance(kwargs, dict)
        or not all(isinstance(k, str) for k in kwargs)
    ):
        raise InvalidJob(
            "the payload must be RQ's [function, instance, args, kwargs]: a list and an object of arguments"
        )
    return Call(str(function), "function", args, kwargs), serializer


def _first_text(blob: bytes) -> str:
    """What a pickle of RQ's says first: the function. Empty if it is none. What follows may say something else."""
    if blob[:1] != b"\x80":
        return ""
    try:
        for opcode, argument, _ in pickletools.genops(blob):
            if "UNICODE" in opcode.name:
                return str(argument)[:500]
            if opcode.name not in ("PROTO", "FRAME", "MARK"):
                break
    except Exception:
        return ""  # it is broken
    return ""


def suited(job: Job) -> Job:
    """A job that RQ can carry. Raises InvalidJob for a field that means something on Faktory only."""
    if job.reply_to is not None:
        raise InvalidJob("reply_to: is for Faktory; on RQ the Record is kept with the job, so leave it out")
    return job


def serializer_of(data: bytes | None) -> Serializer:
    """The serializer of a payload that may not be readable: by its first byte."""
    try:
        head = zlib.decompressobj().decompress(data or b"", 1)
    except zlib.error:
        head = (data or b"")[:1]
    return "pickle" if head == b"\x80" else "json"


def new_job(
    job: Job,
    queue: str,
    *,
    job_id: str | None = None,
    serializer: Serializer = "pickle",
    now: float | None = None,
    payload: dict[str, Any] | None = None,
    due: float | None = None,
) -> tuple[str, dict[str, str | bytes | int]]:
    """The id and the hash of a new job, as `rq.Queue.enqueue` would write it, or `enqueue_at` if it is `due` later.

    `payload`: the job's, if that is known already.
    """
    moment = utc(now)
    call: Any = (JOB_NAME, None, (job.payload() if payload is None else payload,), {})
    fields: dict[str, str | bytes | int] = {
        "created_at": moment,
        "data": zlib.compress(dumps(call, serializer)),
        "success_callback_name": "",
        "failure_callback_name": "",
        "stopped_callback_name": "",
        "started_at": "",
        "ended_at": "",
        "last_heartbeat": "",
        "worker_name": "",
        "group_id": "",
        "origin": queue,
        "description": job.describe(),
        "timeout": -1 if job.timeout is None else max(1, round(job.timeout)),
        "status": "queued" if due is None else "scheduled",
    }
    if trace := current():
        fields["meta"] = dumps(trace, serializer)
    if due is None:
        fields["enqueued_at"] = moment
    if job.tags:
        fields["longshore_tags"] = " ".join(job.tags)
    if job.retries:
        fields["retries_left"] = job.retries
    if job.retention.success is not None:
        fields["result_ttl"] = job.retention.success
    if job.retention.failure is not None:
        fields["failure_ttl"] = job.retention.failure
    return job_id or str(uuid.uuid4()), fields


def pack_text(text: str) -> str:
    """A failure's text as a result stream keeps it."""
    return b64encode(zlib.compress(text.encode("utf-8", "replace"))).decode()


def pack_value(value: object, serializer: Serializer) -> str:
    """A return value as a result stream keeps it."""
    return b64encode(dumps(value, serializer)).decode()


def whole(value: bytes | str | None) -> int | None:
    """A number in a hash field; None for an absent or unreadable one, or one that Redis couldn't count with."""
    try:
        number = int(value) if value not in (None, b"", "") else None
    except ValueError:
        return None
    return number if number is None or abs(number) < 2**63 else None


def read_meta(meta: bytes | None, limit: int = MAX_JOB_BYTES) -> dict[Any, Any] | None:
    """A job's `meta`; None if its producer keeps something there that can't be read safely, and so not be touched."""
    if not meta:
        return {}
    if len(meta) > limit:
        return None
    try:
        value, _ = loads(meta)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def meta_with(value: Mapping[Any, Any], short: Mapping[str, Any], serializer: Serializer) -> bytes:
    """A job's `meta` with `longshore` set."""
    return dumps({**value, "longshore": dict(short)}, serializer)
