"""Megabytes per CPU second of the log's whole way: a pod's timestamps, lines, directives, mask, batches, a sink.

    python tests/bench/bench_pipeline.py rate [megabytes]      # the sink only counts
    python tests/bench/bench_pipeline.py memory                # a million lines at once, one line of 100 MB, drops

Bytes are those of the job's own output; the kubelet's timestamps come on top.
"""

from __future__ import annotations

import asyncio
import gc
import random
import resource
import string
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable

from consumer.cli import GARBAGE
from consumer.executors.kubernetes.position import Position
from consumer.heap import give_back
from consumer.logs.directives import Directives
from consumer.logs.mask import Mask
from consumer.logs.pipeline import Pipeline
from consumer.model import Claim, LogPart, LogPosition, Place, Times
from consumer.queues.none import NoRecords
from consumer.sinks.record import RecordSink

LINE = 100


class Count:
    """A sink that counts."""

    def __init__(self) -> None:
        self.bytes = 0

    async def write(self, block: bytes, place: Place | None = None) -> None:
        """Count it."""
        self.bytes += len(block)

    async def finish(self) -> None:
        """Nothing."""


def log_of(size: int, rng: random.Random, *, tokens: bool = False) -> bytes:
    """Lines of 100 bytes that look like a program's log; `tokens`: each with a UUID in it."""
    words = ["".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 9))) for _ in range(500)]
    lines = []
    for number in range(size // LINE):
        text = f"2026-11-21T08:00:00.{number % 1000:03}Z INFO "
        if tokens:
            text += f"request {uuid.UUID(int=rng.getrandbits(128))} "
        while len(text) < LINE:
            text += rng.choice(words) + " "
        lines.append(text[: LINE - 1] + "\n")
    return "".join(lines).encode()


def stamped(log: bytes) -> bytes:
    """The same as a kubelet sends it: 20,000 lines a second."""
    lines = log.splitlines(keepends=True)
    return b"".join(
        b"2026-11-21T08:%02d:%02d.%09dZ " % (n // 1_200_000, n // 20_000 % 60, n % 20_000 * 50_000 + 7) + line
        for n, line in enumerate(lines)
    )


async def source(data: bytes, chunk: int, times: int) -> AsyncIterator[LogPart]:
    """As a process would give it, in chunks that cut lines."""
    for _ in range(times):
        for at in range(0, len(data), chunk):
            yield data[at : at + chunk]
            await asyncio.sleep(0)


async def from_pod(data: bytes, chunk: int, times: int) -> AsyncIterator[LogPart]:
    """The same of a pod: each time one container's log, its timestamps taken off."""
    for _ in range(times):
        position = Position()
        for at in range(0, len(data), chunk):
            for part in position.feed(data[at : at + chunk]):
                if isinstance(part, bytes | Times):
                    yield part
            await asyncio.sleep(0)


def rate(megabytes: int, chunk: int, data: bytes, secrets: list[str], *, pod: bool = False) -> float:
    """MB of output per CPU second."""
    times = max(megabytes * 1_000_000 // len(data), 1)
    sink = Count()
    pipeline = Pipeline([Directives(), Mask(secrets)], [sink])
    given = from_pod(stamped(data), chunk, times) if pod else source(data, chunk, times)
    began = time.process_time()
    position = asyncio.run(pipeline.run(given))
    took = time.process_time() - began
    assert not position.gaps, position.gaps
    assert position.bytes == sink.bytes
    return times * len(data) / 1e6 / took


def best(megabytes: int, chunk: int, data: bytes, secrets: list[str], *, pod: bool = False) -> float:
    """Of three: whatever else the machine does only makes it slower."""
    return max(rate(megabytes, chunk, data, secrets, pod=pod) for _ in range(3))


def mask_rate(data: bytes, secrets: list[str]) -> float:
    """MB per CPU second of the mask alone, on blocks of 64 KiB."""
    mask = Mask(secrets)
    blocks = [data[at : data.rfind(b"\n", at, at + 65_536) + 1] for at in range(0, len(data) - 65_536, 65_536)]
    return speed(lambda: [mask.feed(block) for block in blocks], sum(map(len, blocks)))


def speed(action: Callable[[], object], size: int) -> float:
    """MB per CPU second of an action on so many bytes, for at least a second."""
    began, rounds = time.process_time(), 0
    while time.process_time() - began < 1:
        action()
        rounds += 1
    return rounds * size / 1e6 / (time.process_time() - began)


def rates(megabytes: int) -> None:
    """A table by the number of secrets."""
    chunk = 64 * 1024
    rng = random.Random(1)
    data, tokens = log_of(4_000_000, rng), log_of(4_000_000, rng, tokens=True)
    print(
        f"{megabytes} MB in chunks of {chunk // 1024} KiB, lines of {LINE} bytes: MB per CPU second, the best of three"
    )
    print("secrets  variants  mask alone  pipeline  with a UUID in each line  from a pod, with timestamps")
    for count in (0, 1, 5, 20, 50):
        secrets = ["".join(rng.choices(string.ascii_letters + string.digits, k=32)) for _ in range(count)]
        variants = len(Mask(secrets).variants)
        alone = f"{mask_rate(data, secrets):10.0f}" if count else "         -"
        plain, uuids = (best(megabytes, chunk, log, secrets) for log in (data, tokens))
        pod = best(megabytes, chunk, data, secrets, pod=True)
        print(f"{count:7}  {variants:8}  {alone}  {plain:8.0f}  {uuids:24.0f}  {pod:27.0f}")


async def one_line(size: int) -> AsyncIterator[LogPart]:
    """A line that doesn't end."""
    for _ in range(size // 65_536):
        yield b"x" * 65_536
        await asyncio.sleep(0)
    yield b"\n"


async def drops(seconds: float) -> AsyncIterator[LogPart]:
    """A line now and then, which is to be stored within a second; three of them here."""
    for n in range(3):
        yield b"drop %d\n" % n
        await asyncio.sleep(seconds)


class Arrivals(NoRecords):
    """Records that note when a line came."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.bytes = 0

    async def append(self, claim: Claim, data: bytes, position: LogPosition) -> None:
        """Note it."""
        self.at.append(time.monotonic())
        self.bytes += len(data)


def memory() -> None:
    """What each kind of log takes of time and memory, through the sink that stores logs beside the Record."""
    rng = random.Random(1)
    data = log_of(4_000_000, rng)
    claim = Claim(id="j", queue="q", attempt=1, token="t", job=None)
    print("log                        lines        MB  CPU s  growth of memory, MB  delay of a line, s")
    kinds: dict[str, Callable[[], AsyncIterator[LogPart]]] = {
        "a million lines at once": lambda: source(data, 65_536, 25),
        "one line of 100 MB": lambda: one_line(100 * 2**20),
        "a line every 6 s": lambda: drops(6),
    }
    rate(8, 65_536, data, ["hunter22-hunter22"])  # what is loaded once
    for name, make in kinds.items():
        records = Arrivals()
        pipeline = Pipeline([Directives(), Mask(["hunter22-hunter22"])], [RecordSink(records, claim)])
        before, began, start = _peak(), time.process_time(), time.monotonic()
        position = asyncio.run(pipeline.run(make()))
        took = time.process_time() - began
        assert not [gap for gap in position.gaps if gap["reason"] != "cap"], position.gaps
        assert records.bytes == position.bytes
        delay = max(at - start - 6 * n for n, at in enumerate(records.at)) if "every" in name else None
        growth = _peak() - before
        print(
            f"{name:24} {position.lines:9,} {position.bytes / 1e6:9.1f} {took:6.2f} {growth:21.1f}"
            f"  {'-' if delay is None else f'{delay:.2f}':>18}"
        )


def _peak() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print a table."""
    give_back()  # as `longshore run` begins
    gc.freeze()
    gc.set_threshold(*GARBAGE)
    what = sys.argv[1] if len(sys.argv) > 1 else "rate"
    if what == "memory":
        memory()
    else:
        rates(int(sys.argv[2]) if len(sys.argv) > 2 else 100)


if __name__ == "__main__":
    main()
