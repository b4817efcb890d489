"""A job's files out of its pod: a container of ours hands them over in its log when the main one has ended.

It runs beside the job as a native sidecar (Kubernetes 1.29 or newer), which the kubelet tells to end once the job has,
however that ended. It has no keys and no network of its own to use: tar, gzip and base64 go into its log, which the
consumer reads with the rights that it has anyway. A node may rotate that log while it is written: so it is read from
the moment on in which the job ends, and what is long is said twice, in numbered lines, since a reader that follows a
log may miss some at its rotation. What is missing all the same, their numbers tell.
"""

from __future__ import annotations

import asyncio
import binascii
import contextlib
import random
import tempfile
import time
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import IO, Any

import aiohttp

from consumer.executors.kubernetes.api import Api, ApiError
from consumer.executors.places import OUTPUTS as PLACE
from consumer.executors.tar_stream import read_tar
from consumer.model import OutputPart, Plan
from consumer.settings import Kubernetes
from consumer.storing import Refused
from consumer.tasks import end as end_task

COLLECTOR, VOLUME = "longshore-outputs", "outputs"
GRACE = 30
"""Seconds that the kubelet gives the collector."""
HEADERS = 1024 * 1024
"""Bytes of a tar beside what is in its files."""
SILENCE = 60.0
PATIENCE, PAUSE, PAUSE_CAP = 30.0, 0.2, 2.0
"""Seconds for which a log that can't be read is asked for again, and between two tries."""
PIECE = 1024 * 1024
_DAMAGED = "what the pod handed over is damaged"
SHELF = 128 * 1024 * 1024

LINE = 12_000
"""Characters of a line but for its number: a whole one of a container runtime, which breaks lines after 16 KiB."""
END = b"."
"""The text of the line behind the last one."""

# sh waits for `sleep` in the background, since it runs a trap only between commands. It lingers at its end, since a
# container runtime (containerd 1.6) may lose what a process has written right before. A log below 10 MiB isn't rotated;
# an operator may have set less. Where base64 can't break lines, fold does.
_SCRIPT = f"""
lines() {{ base64 -w {LINE} 2>/dev/null || {{ base64 | tr -d '\\n' | fold -w {LINE}; echo; }}; }}
say() {{ {{ tar -c -f - . 2>/dev/null | head -c "$1" | gzip -1 | lines; echo {END.decode()}; }} | grep -n ''; }}
give() {{
  cd "$1" || exit
  say "$2"
  du -sk . | {{ read -r size _; [ "$size" -le 2048 ]; }} || say "$2"
  sleep 0.5 2>/dev/null || sleep 1
  exit 0
}}
trap 'give "$1" "$2"' TERM
while :; do sleep 3600 & wait $!; done
"""


def add_collector(
    spec: dict[str, Any], plan: Plan, settings: Kubernetes, empty: dict[str, str], extra: dict[str, Any]
) -> None:
    """Add the collector, and the volume that it reads, to a pod.

    `empty`: the source of empty volumes; `extra`: what all containers of the pod have.
    """
    wish = plan.job.outputs
    most = min(wish.max_bytes or settings.outputs_bytes, settings.outputs_bytes) if wish else 0
    spec["volumes"].append({"name": VOLUME, "emptyDir": empty})
    for container in (*spec["containers"], *spec.get("initContainers", ())):
        container["volumeMounts"].append({"name": VOLUME, "mountPath": PLACE})
        container["env"].append({"name": "LONGSHORE_OUTPUTS", "value": PLACE})
    collector = {
        "name": COLLECTOR,
        "image": settings.outputs_image,
        "restartPolicy": "Always",
        "command": ["sh", "-c", _SCRIPT, "outputs", PLACE, str(most + HEADERS)],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "volumeMounts": [{"name": VOLUME, "mountPath": PLACE, "readOnly": True}],
        **extra,
    }
    spec["initContainers"] = [collector, *spec.get("initContainers", ())]
    spec["terminationGracePeriodSeconds"] = max(GRACE, spec.get("terminationGracePeriodSeconds", 0))


class Shelf:
    """How many bytes of files may wait in temporary files, of all pods together."""

    def __init__(self) -> None:
        self.free = SHELF


class Handover:
    """The reading of what a pod's collector writes."""

    def __init__(self, api: Api, path: str, over: Callable[[], bool], shelf: Shelf) -> None:
        """`path`: of the pod's log; `over`: nothing runs in the pod any more."""
        self._api, self._path, self._over, self._shelf = api, path, over, shelf
        self._early: asyncio.Task[IO[bytes] | None] | None = None
        self._size = 0

    def begin(self) -> None:
        """The main step has ended: read from now on what the collector writes, if that isn't done already."""
        if self._early is None and not self._over():
            self._early = asyncio.create_task(self._keep(), name=f"outputs {self._path}")

    async def parts(self) -> AsyncIterator[OutputPart]:
        """All that the collector of the ended pod has handed over. Raises Refused."""
        kept = await self._early if self._early is not None else None
        if kept is not None:
            kept.seek(0)
            async for part in read_tar(_pieces(kept)):
                yield part
            return
        async with contextlib.aclosing(self._said()) as lines:
            async for part in read_tar(unpacked(lines)):
                yield part

    async def close(self) -> None:
        """Nobody wants it any more."""
        if self._early is None:
            return
        await end_task(self._early)
        self._give_back()
        if not self._early.cancelled() and self._early.exception() is None and (kept := self._early.result()):
            kept.close()

    async def _keep(self) -> IO[bytes] | None:
        """What is in the log, as a temporary file; None if it isn't whole, or there is no room for it."""
        with contextlib.ExitStack() as unless_whole:
            unless_whole.callback(self._give_back)
            kept = unless_whole.enter_context(tempfile.SpooledTemporaryFile(max_size=PIECE))
            try:
                async with contextlib.aclosing(self._said()) as lines:
                    async for piece in unpacked(lines):
                        if self._shelf.free < len(piece):
                            return None
                        self._shelf.free -= len(piece)
                        self._size += len(piece)
                        kept.write(piece)
            except (Refused, OSError):
                return None
            unless_whole.pop_all()
        return kept

    def _give_back(self) -> None:
        """Room on the shelf, with the file that took it."""
        self._shelf.free += self._size
        self._size = 0

    async def _said(self) -> AsyncGenerator[bytes, None]:
        """Lines of the log to its end, some of them again where the reading was cut. Raises Refused."""
        pause, failing = PAUSE, None
        while True:
            over, told = self._over(), 0.0
            try:
                async with contextlib.aclosing(self._lines(follow="false" if over else "true")) as reading:
                    async for lines in reading:
                        for line in lines:
                            yield line
                        pause, failing = PAUSE, None
                if over:
                    return
            except (ApiError, aiohttp.ClientError, OSError, TimeoutError) as error:
                if isinstance(error, ApiError) and not (error.passing or error.status == 401):
                    raise Refused("the pod is gone" if error.status == 404 else str(error)) from None
                failing = failing or time.monotonic()
                if time.monotonic() - failing > PATIENCE:
                    why = error if isinstance(error, ApiError) else "the connection to the node broke"
                    raise Refused(str(why)) from None
                told = getattr(error, "retry_after", None) or 0.0
            await asyncio.sleep(max(told, random.uniform(pause / 2, pause)))
            pause = min(PAUSE_CAP, pause * 2)

    async def _lines(self, **query: str) -> AsyncGenerator[list[bytes], None]:
        """Whole lines of one reading as they come. Raises Refused, ApiError and what aiohttp does."""
        rest = b""
        async with self._api.stream(self._path, {"container": COLLECTOR, **query}, sock_read=SILENCE) as response:
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                yield lines
                if len(rest) > PIECE:
                    raise Refused(_DAMAGED)


async def _pieces(file: IO[bytes]) -> AsyncIterator[bytes]:
    while piece := file.read(PIECE):
        yield piece


async def unpacked(lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """base64 and gzip undone; what comes after their end isn't read. Raises Refused for what is damaged, or missing."""
    unzip = zlib.decompressobj(31)
    try:
        async for text in in_order(lines):
            data = binascii.a2b_base64(text, strict_mode=True)
            while data:
                if piece := unzip.decompress(data, PIECE):
                    yield piece
                data = unzip.unconsumed_tail
            if unzip.eof:
                return
    except (zlib.error, binascii.Error):
        raise Refused(_DAMAGED) from None
    raise Refused("what the pod handed over is cut off")


async def in_order(lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The text of numbered lines, each once: what is missing is looked for in what is said again. Raises Refused."""
    due, last, line = 1, b"", b""
    async for line in lines:
        number, _, text = line.partition(b":")
        if text == END and number == b"%d" % (due + bool(last)):
            yield last
            return
        if number == b"%d" % due:
            if len(text) == LINE:
                yield text
                due, last = due + 1, b""
            else:
                last = text  # or one that a rotation has cut: the next one tells
    if not line:
        raise Refused("the pod handed over nothing: it was stopped before it could, or its node has rotated the log")
    raise Refused("a part of what the pod handed over is missing: its node has rotated the log, perhaps")
