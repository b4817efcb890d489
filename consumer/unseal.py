"""Opens sealed variables when their job starts: until then nobody but the private key's owner can read them."""

from __future__ import annotations

import base64
import binascii
from dataclasses import replace
from pathlib import Path
from typing import Any

from consumer.errors import SetupError, Unrunnable
from consumer.model import Claim
from enqueue.errors import UsageError
from enqueue.job import Job
from enqueue.job_parts import Variable
from enqueue.record import Reason
from enqueue.seal import PRIVATE, key_bytes, key_id, nacl


class UnsealedJob(Job, defer_build=True):
    """Made by `Keys` only."""

    call: str
    """The digest of what the producer sent."""

    def digest(self) -> str:
        """A stable hash of what the producer sent: what a found execution is compared with."""
        return self.call


class Keys:
    """The private keys of a file, a line each; read again when a job wants one that isn't among them."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._boxes: dict[str, Any] = {}

    def load(self) -> None:
        """Read the file. Raises SetupError that names the line, never what stands there."""
        if self._path is None:
            return
        try:
            lines = self._path.read_text().splitlines()
            public = nacl()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", "it is no text")
            raise SetupError(f"jobs.seal_keys: {self._path} can't be read: {why}") from None
        except UsageError as error:
            raise SetupError(f"jobs.seal_keys: {error}") from None
        boxes = {}
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            try:
                private = public.PrivateKey(key_bytes(line, PRIVATE))
            except UsageError as error:
                raise SetupError(f"jobs.seal_keys: {self._path}, line {number}: {error}") from None
            boxes[key_id(bytes(private.public_key))] = public.SealedBox(private)
        if not boxes:
            raise SetupError(f"jobs.seal_keys: {self._path} has no key; `longshore keygen` makes one")
        self._boxes = boxes

    def open(self, claim: Claim) -> tuple[Claim, Unrunnable | None]:
        """The claim with its Job's variables opened; or itself, and why that can't be."""
        job = claim.job
        if job is None or not any(variable.sealed for variable in job.variables):
            return claim, None
        try:
            variables = tuple(self._opened(variable) for variable in job.variables)
        except Unrunnable as error:
            return claim, error
        if type(job) is Job:
            values = {name: getattr(job, name) for name in Job.model_fields} | {"variables": variables}
            return replace(claim, job=UnsealedJob.model_construct(**values, call=job.digest())), None
        return replace(claim, job=job.model_copy(update={"variables": variables})), None

    def _opened(self, variable: Variable) -> Variable:
        if variable.sealed is None:
            return variable
        try:
            text = self._box(variable).decrypt(base64.b64decode(variable.value, validate=True)).decode()
        except (binascii.Error, ValueError, nacl_error()):
            raise _unfit(variable, "doesn't open: it was cut, changed, or sealed for another key") from None
        if "\0" in text:
            raise _unfit(variable, "must not contain a NUL character")
        return variable.model_copy(update={"value": text, "sealed": None})

    def _box(self, variable: Variable) -> Any:
        if variable.sealed not in self._boxes:
            try:
                self.load()
            except SetupError as error:
                raise _unfit(variable, f"can't be opened: {error}") from None
        if variable.sealed not in self._boxes:
            have = (
                f"this consumer has {', '.join(self._boxes)}"
                if self._boxes
                else "this consumer has none (jobs.seal_keys)"
            )
            raise _unfit(variable, f"is sealed for the key {variable.sealed}; {have}")
        return self._boxes[variable.sealed]


def nacl_error() -> type[Exception]:
    """What PyNaCl raises for a box that doesn't open; nothing opens without it."""
    try:
        from nacl.exceptions import CryptoError
    except ImportError:
        return UsageError
    return CryptoError  # type: ignore[no-any-return, unused-ignore]


def _unfit(variable: Variable, problem: str) -> Unrunnable:
    return Unrunnable(f"variables: the sealed {variable.name} {problem}", Reason.SEALED)
