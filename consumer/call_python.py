"""Runs in a job's own process, by the image's Python (3.8 or newer), from a file: calls one function, tells its end.

It reads the call from $LONGSHORE_ARGS. Its last line in $LONGSHORE_OUTCOME is `longshore-call={...}`: the function's
value or exception, or, where that is too long for the file, the size and hash of what then stands in the output, in
lines that begin with `::longshore-call `. `consumer/returned.py` reads both.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import inspect
import io
import json
import os
import pickle
import sys
import traceback
import zlib
from typing import Any

FILE_BYTES = 4096  # what Kubernetes keeps of the outcome file
VALUE_BYTES = 1000000  # of a return value as JSON
TRACE_CHARACTERS = 64000  # the end of a traceback
CHUNK = 3000  # so that a line is written in one piece, whatever else writes there
DEPTH = 100  # lists and objects within each other: what every reader of JSON takes
INTEGER_BITS = 14000  # Python reads at most 4,300 digits


class Plain(pickle.Unpickler):
    """The consumer has looked through what it passes on as plain; so do we."""

    def find_class(self, module: str, name: str) -> Any:
        raise ValueError("the arguments hold more than plain values")


def arguments(call: dict[str, Any]) -> tuple[Any, Any]:
    """(args, kwargs); only what the operator lets pass as a pickle is unpickled, here, where it can do no more harm
    than the function itself."""
    if "pickle" in call:
        _, instance, args, kwargs = pickle.loads(base64.b64decode(call["pickle"]))
        if instance is not None:
            raise TypeError("only functions can be called by name, not methods of objects")
        return args, kwargs
    if "plain" in call:
        args, kwargs = Plain(io.BytesIO(base64.b64decode(call["plain"]))).load()
        return args, kwargs
    return call["args"], call["kwargs"]


def function_of(path: str, guarded: bool) -> Any:
    """The function of that path. `guarded`: it was found by a pattern, so it must be the package's own."""
    parts = path.split(".")
    for count in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:count])
        try:
            found = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not (name + ".").startswith(error.name + "."):
                raise  # something that the module itself imports
            if count == 1:
                raise
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        own = str(getattr(found, "__module__", "")).split(".")[0]
        if guarded and (own not in (parts[0], "__main__") or inspect.isclass(found)):
            raise PermissionError(f"{path} is no function of the package {parts[0]}")
        return found
    raise ModuleNotFoundError(f"{path} is no path of a function, such as app.tasks.resize")


def sound(text: str) -> str:
    """The same text; halves of surrogate pairs, which no encoding takes, as `\\ud800`."""
    return text.encode("utf-8", "backslashreplace").decode()


def said(error: BaseException) -> str:
    """What an exception says of itself, if it can."""
    try:
        return sound(str(error))[:2000]
    except Exception:
        return ""


def flush() -> None:
    """What was printed goes first; a function may have closed or replaced the streams."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass


def unfit(value: object, place: str, left: int = DEPTH) -> str | None:
    """Why a value wouldn't come back from JSON as it is; None if it would, tuples as lists."""
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int):
        return None if value.bit_length() <= INTEGER_BITS else f"{place} has more digits than JSON's readers take"
    if isinstance(value, str):
        return None if sound(value) == value else f"{place} has half of a surrogate pair"
    if not left:
        return "the value is nested too deeply"
    if isinstance(value, float):
        return None if value - value == 0 else f"{place} is {value!r}"
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                return f"{place} has a key of type {type(key).__name__}"
            problem = unfit(key, f"{place} has a key that") or unfit(inner, f"{place}.{key[:40]}", left - 1)
            if problem:
                return problem
        return None
    if isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            problem = unfit(inner, f"{place}[{index}]", left - 1)
            if problem:
                return problem
        return None
    return f"{place} is of type {type(value).__name__}"


def told(value: object) -> dict[str, Any]:
    """What is told of a return value."""
    problem = unfit(value, "the value")
    if problem:
        return {"unfit": problem + ", which isn't JSON"}
    size = len(json.dumps(value))
    if size > VALUE_BYTES:
        return {"unfit": f"it has {size:,} bytes as JSON, and {VALUE_BYTES:,} are kept at most"}
    return {"value": value}


def tell(told: dict[str, Any]) -> None:
    """Write it into the outcome file; what is too long for it goes to the output, after all that is there."""
    text = json.dumps(told)
    path = os.environ["LONGSHORE_OUTCOME"]
    try:
        there = os.path.getsize(path)
    except OSError:
        there = 0
    line = "\nlongshore-call=" + text + "\n"
    if there + len(line) > FILE_BYTES:
        packed = zlib.compress(text.encode())
        brief = {"size": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}
        line = "\nlongshore-call=" + json.dumps(brief) + "\n"
        lines = [base64.b64encode(packed[at : at + CHUNK]) for at in range(0, len(packed), CHUNK)]
        try:
            os.write(1, b"\n")  # whatever was written last may lack its newline
            for chunk in lines:
                rest = b"::longshore-call " + chunk + b"\n"
                while rest:
                    rest = rest[os.write(1, rest) :]
        except OSError:  # the function has closed it: the consumer sees by the hash that it isn't whole
            pass
    with open(path, "a") as stream:
        stream.write(line)


def main() -> int:
    """Call, and tell; the exit code."""
    with open(os.environ["LONGSHORE_ARGS"]) as stream:
        call = json.load(stream)
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    code = 0
    try:
        args, kwargs = arguments(call)
        function = function_of(call["function"], call["guarded"])
        value = function(*args, **kwargs)
        if inspect.iscoroutine(value):
            import asyncio

            value = asyncio.run(value)
        end = told(value if call["result"] == "json" else None)
    except BaseException as error:
        lines = traceback.TracebackException.from_exception(error)
        while lines.stack and lines.stack[0].filename == __file__:
            lines.stack.pop(0)  # people look for their own frames
        text = sound("".join(lines.format()))
        flush()
        try:
            sys.stderr.write(text)
        except Exception:
            pass
        name = type(error).__qualname__
        if type(error).__module__ not in ("builtins", "__main__"):
            name = type(error).__module__ + "." + name
        end, code = {"exception": name, "message": said(error), "traceback": text[-TRACE_CHARACTERS:]}, 1
    flush()
    tell(end)
    return code


if __name__ == "__main__":
    sys.exit(main())
