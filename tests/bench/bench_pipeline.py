"""Megabytes per CPU second of the log's whole way: source, lines, directives, mask, batches, a sink that only counts.

python tests/bench/bench_pipeline.py [megabytes] [chunk in KiB]
"""

from __future__ import annotations

import asyncio
import random
import string
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable

from consumer.logs.directives import Directives
from consumer.logs.mask import Mask
from consumer.logs.pipeline import Pipeline

LINE = 100


class Count:
    """A sink that counts."""

    def __init__(self) -> None:
        self.bytes = 0

    async def write(self, block: bytes) -> None:
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


async def source(data: bytes, chunk: int, times: int) -> AsyncIterator[bytes]:
    """As a pod or a process would give it, in chunks that cut lines."""
    for _ in range(times):
        for at in range(0, len(data), chunk):
            yield data[at : at + chunk]
            await asyncio.sleep(0)


def rate(megabytes: int, chunk: int, data: bytes, secrets: list[str]) -> float:
    """MB per CPU second."""
    times = max(megabytes * 1_000_000 // len(data), 1)
    sink = Count()
    pipeline = Pipeline([Directives(), Mask(secrets)], [sink])
    began = time.process_time()
    position = asyncio.run(pipeline.run(source(data, chunk, times)))
    took = time.process_time() - began
    assert not position.gaps, position.gaps
    assert position.bytes == sink.bytes
    return times * len(data) / 1e6 / took


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


def main() -> None:
    """Print a table."""
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    chunk = (int(sys.argv[2]) if len(sys.argv) > 2 else 64) * 1024
    rng = random.Random(1)
    data = log_of(4_000_000, rng)
    print(f"{megabytes} MB in chunks of {chunk // 1024} KiB, lines of {LINE} bytes: MB per CPU second")
    tokens = log_of(4_000_000, rng, tokens=True)
    print("secrets  variants  mask alone  whole pipeline  with a UUID in each line")
    for count in (0, 1, 5, 20, 50):
        secrets = ["".join(rng.choices(string.ascii_letters + string.digits, k=32)) for _ in range(count)]
        variants = len(Mask(secrets).variants)
        alone = f"{mask_rate(data, secrets):10.0f}" if count else "         -"
        plain, with_tokens = (rate(megabytes, chunk, log, secrets) for log in (data, tokens))
        print(f"{count:7}  {variants:8}  {alone}  {plain:14.0f}  {with_tokens:24.0f}")


if __name__ == "__main__":
    main()
