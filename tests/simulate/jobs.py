"""The jobs of a history, and what their pods do: all drawn from its seed."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Any

from simulate.cluster import SimulatedPod
from support.fakekubelet import FakePod, rfc3339

SECRET = "s3cret-that-nobody-may-see"
NODES = ("node-1", "node-2", "node-3")


@dataclass
class Life:
    """What becomes of one pod."""

    schedule: float
    pull: float
    lines: int
    pause: float
    code: int
    end: str = "exit"
    """exit, oom, evicted, deleted, node_lost, unpullable."""
    node: str = NODES[0]


@dataclass
class Case:
    """A job. `lives`: of its attempts, the last one of all further ones."""

    id: str
    job: dict[str, Any]
    lives: list[Life]
    at: float
    cancel: float | None = None
    by_rq: bool = False
    """By stock rq, which knows nothing of Records."""
    written: dict[int, list[bytes]] = field(default_factory=dict)
    """What each attempt's pod wrote."""

    def life(self, attempt: int) -> Life:
        return self.lives[min(attempt, len(self.lives)) - 1]


ENDS = ("oom", "evicted", "deleted", "node_lost", "unpullable")


def drawn_life(rng: random.Random, calm: float) -> Life:
    """`calm`: the share of pods that nothing happens to."""
    short = rng.random() < 0.4
    life = Life(
        schedule=rng.uniform(0.01, 1.0),
        pull=rng.uniform(0.01, 2.0),
        lines=rng.randint(0, 4 if short else 12),
        pause=rng.uniform(0.0, 0.05) if short else rng.uniform(0.1, 1.5),
        code=0 if rng.random() < 0.65 else rng.choice((1, 2, 42, 137, 143)),
        node=rng.choice(NODES),
    )
    if rng.random() > calm:
        life.end = rng.choices(ENDS, (3, 3, 3, 1, 1))[0]
    return life


def drawn(rng: random.Random, count: int) -> list[Case]:
    """So many jobs."""
    found = []
    calm = rng.choice((1.0, 0.9, 0.6))
    for number in range(count):
        job: dict[str, Any] = {"image": "x", "commands": ["run"]}
        job["retries"] = rng.choice((0, 0, 1, 2))
        job["infrastructure_retries"] = rng.choice((0, 0, 1, 2))
        if rng.random() < 0.2:
            job["variables"] = [{"name": "KEY", "value": SECRET, "sensitive": True}]
        if rng.random() < 0.15:
            job["timeout"] = rng.uniform(1, 8)
        job["start_timeout"] = rng.choice((10.0, 60.0))
        job["grace"] = rng.choice((0.5, 2.0, 5.0))
        case = Case(f"job-{number}", job, [drawn_life(rng, calm) for _ in range(3)], rng.uniform(0, 12))
        if rng.random() < 0.2:
            case.cancel = case.at + rng.choice((0.0, rng.uniform(0, 2), rng.uniform(2, 12)))
            case.by_rq = rng.random() < 0.3
        found.append(case)
    return found


async def live(pod: SimulatedPod, case: Case, attempt: int, sees_secrets: bool) -> None:
    """The pod's life, as its kubelet tells it."""
    life = case.life(attempt)
    await asyncio.sleep(life.schedule)
    pod.schedule(life.node)
    if life.end == "unpullable":
        await asyncio.sleep(life.pull)
        pod.wait("ImagePullBackOff", "back-off pulling image")
        return
    await pod.secret()
    await asyncio.sleep(life.pull)
    await pod.started()
    pod.run()
    written = case.written.setdefault(attempt, [])
    cut = life.lines // 2 if life.end != "exit" else life.lines
    for number in range(cut):
        await asyncio.sleep(life.pause)
        line = b"%d line %d of %s\n" % (attempt, number, SECRET.encode() if sees_secrets else b"it")
        written.append(line)
        pod.write(line)
    await asyncio.sleep(life.pause)
    if life.end == "exit":
        pod.end(life.code)
    elif life.end == "oom":
        pod.end(137, "OOMKilled")
    elif life.end == "evicted":
        pod.disrupt()
        _delete(pod, 1)
    elif life.end == "deleted":
        _delete(pod, 1)
    elif life.end == "node_lost":
        pod.obstinate = True
        await asyncio.sleep(5)
        pod.disrupt("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")
        _mark(pod, 1)
        await asyncio.sleep(10)
        pod.disrupt("DeletionByPodGC", "PodGC: node not found")
        pod.status(phase="Failed")
        pod.vanish()


def _mark(pod: FakePod, grace: int) -> None:
    def edit(item: dict[str, Any]) -> None:
        item["metadata"] |= {"deletionTimestamp": rfc3339(time.time()), "deletionGracePeriodSeconds": grace}

    pod.change(edit)


def _delete(pod: FakePod, grace: int) -> None:
    """Somebody deletes it; its kubelet ends it."""
    _mark(pod, grace)
    asyncio.get_running_loop().call_soon(pod.deleted)
