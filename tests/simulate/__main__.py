"""Histories on virtual time, one for each seed: `make simulate`, `make simulate SEED=123 COUNT=1`.

The first that breaks an invariant is told with what was done to it and its last events; it comes again with its seed.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from simulate.judge import counted
from simulate.world import Result, simulate

LAST = 40
"""Events that are shown of a history that failed."""


def shown(seed: int, result: Result) -> str:
    """A failure, for whoever has to find its cause."""
    said = [f"seed {seed}: {result.problem}", "", "what was done:", *result.story, "", f"the last {LAST} events:"]
    for event in result.events[-LAST:]:
        value = event.value
        if isinstance(value, dict):
            value = {name: value[name] for name in ("status", "reason", "attempt", "message") if value.get(name)}
        words = (event.what.name, event.job, event.attempt or "", event.name, value or "")
        said.append(f"{event.at:17.6f} " + " ".join(str(word) for word in words if word))
    return "\n".join([*said, "", f"again: make simulate SEED={seed} COUNT=1"])


def one(seed: int) -> tuple[int, str | None, dict[str, int], float]:
    """The seed, what was wrong, how many events of each kind, virtual seconds."""
    result = simulate(seed)
    if seed % 20 == 0:
        gc.collect()
    problem = shown(seed, result) if result.problem is not None else None
    return seed, problem, counted(result.events), result.seconds


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    parser.add_argument("--count", type=int, default=1000, help="how many histories")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--all", action="store_true", help="go on after a failure")
    given = parser.parse_args()
    began, failed, events, seconds = time.monotonic(), 0, 0, 0.0
    gc.disable()  # most of what a history makes is gone with it: once in a while is enough
    with multiprocessing.get_context("fork").Pool(given.processes if given.count > 1 else 1) as pool:
        for _, problem, counts, lasted in pool.imap(one, range(given.seed, given.seed + given.count), chunksize=5):
            events, seconds = events + sum(counts.values()), seconds + lasted
            if problem is not None:
                print(problem, flush=True)
                failed += 1
                if not given.all:
                    break
    took = time.monotonic() - began
    print(
        f"{given.count} histories, {events} events, {seconds / 3600:.1f} virtual hours in {took:.0f} s: {failed} failed"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
