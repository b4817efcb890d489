"""Everything at once for half an hour: steady loads, real and simulated pods, and servers and consumers that die.

    python tests/soak/run_soak.py [--minutes 30] [--seed 7] [--pace 1] [--keep FOLDER] [--place NAME] [--fault KIND]

Four places with three consumers each: RQ and Faktory (with Records), each with pods on real nodes and on simulated
ones (KWOK, namespace `kwok`); `--place` and `--fault` leave out all others, to find out what does what.

KUBECONFIG is an admin's; LAB_CONSUMER_KUBECONFIG, if set, that of the consumers. Redis
is a private one with an append-only file, which is killed. Faktory is a private one too if LONGSHORE_TEST_FAKTORY
names its binary, else the one at FAKTORY_URL, else left out. LONGSHORE_TEST_RESTART is a command that restarts a part
of the cluster, `{}` standing for its name: kube-apiserver (and faktory, at FAKTORY_URL); without it, neither is.

At the end `count_records.py`, which knows nothing of longshore, counts what lies in the queues, `longshore audit`
looks at queues and pods, and what was seen meanwhile is held against the invariants. Exits with 1 if one is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import resource
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench import ending
from bench.simulated import NAMESPACE, admin, consumer_kubeconfig, simulated
from consumer.executors.kubernetes.api import Api, ApiError, path_of
from consumer.tasks import end
from soak.ledger import Ledger, monitor
from soak.replicas import Replicas
from soak.requested import MOST, AuditLog
from soak.servers import Faktory, Up, restarted
from soak.steady import Load, Place, left, told_secrets
from support.cluster import drop_namespace, make_namespace, user_of
from support.redis_server import RedisServer
from support.witnesses import FaktoryProxy, watch_pods

REPLICAS = 3
SAMPLE = 5.0
"""Seconds between two looks at the consumers' memory."""
QUIET = 20.0
"""Seconds without faults before the last job comes."""
GONE = 120.0
"""Seconds after the last job's end until nothing of any job is left."""
EVERY = {"redis": 90.0, "faktory": 120.0, "kube-apiserver": 180.0}
"""Mean seconds between two faults of a server."""
FAULTS = (*EVERY, "consumers")
PLACES = tuple(f"{kind}-{pods}" for kind in ("rq", "faktory") for pods in ("real", "simulated"))


class Soak:
    """One run. All that is drawn by lot follows from `seed`."""

    def __init__(
        self, minutes: float, seed: int, pace: float, folder: Path, names: list[str], faults: list[str]
    ) -> None:
        self.minutes, self.seed, self.pace, self.folder = minutes, seed, pace, folder
        self.names, self.kinds = names, faults
        self.rng = random.Random(seed)
        self.faults: Counter[str] = Counter()
        self.wrongs: list[str] = []
        self.places: list[Place] = []
        self.loads: list[Load] = []
        self.replicas: list[Replicas] = []
        self.figures: dict[str, Any] = {"seed": seed, "minutes": minutes}

    async def run(self) -> int:
        """Its exit code; prints the figures."""
        began, log = time.monotonic(), AuditLog()
        async with contextlib.AsyncExitStack() as stack:
            self.server = RedisServer("--appendonly", "yes", "--appendfsync", "no", "--save", "")
            stack.callback(self.server.close)
            self.server.start()
            self.faktory = stack.enter_context(Faktory.found(self.folder))
            self.admin: Api = await stack.enter_async_context(admin())
            self.mark = await stack.enter_async_context(simulated("faktory-simulated"))
            await self._set_up(stack)
            await self._work()
            await self._settled()
            for group in self.replicas:
                await group.terminate()
            self.wrongs += filter(None, await asyncio.gather(*(self._audited(place) for place in self.places)))
            self.wrongs += [text for place in self.places for text in self._counted(place)]
        self._judge()
        told = log.told({place.namespace for place in self.places if place.real})
        self.figures["requests for real pods"] = told
        if told.get("most in a second", 0) > MOST:
            self.wrongs.append(f"I9: {told['most in a second']} requests within a second")
        self.figures["seconds"] = round(time.monotonic() - began)
        return self._told()

    async def _set_up(self, stack: contextlib.AsyncExitStack) -> None:
        self.redis_up, self.faktory_up = Up(), Up()
        for number, name in enumerate(PLACES):
            kind, _, pods = name.partition("-")
            real = pods == "real"
            if name not in self.names or (kind == "faktory" and not self.faktory.url):
                continue
            namespace = await self._namespace(stack) if real else NAMESPACE
            ledger = Ledger(slots := 4 if real else 40, apart=kind == "faktory")
            url = ""
            if kind == "faktory":
                proxy = FaktoryProxy("127.0.0.1", self.faktory.port, ledger.history)
                url = (await stack.enter_async_context(proxy)).url
            place = Place(
                name, f"soak-{secrets.token_hex(4)}-{name}", self.server.url(number), url, namespace, real, slots,
                self.folder / name, ledger, most=30 if real else 150, pause=(3.0 if real else 0.8) / self.pace,
            )  # fmt: skip
            place.folder.mkdir()
            self.places.append(place)
            queue_up = self.faktory_up if kind == "faktory" else Up()
            image = os.environ.get("LONGSHORE_TEST_IMAGE", "busybox")
            self.loads.append(Load(place, self.admin, image, self.redis_up, queue_up))
            for witness in (
                monitor(place.store, ledger),
                watch_pods(self.admin, namespace, ledger.history, place.queue),
            ):
                stack.push_async_callback(end, asyncio.create_task(witness))
            replicas = Replicas(self._config(place), place.folder, REPLICAS, prefix=name)
            self.replicas.append(await stack.enter_async_context(replicas))

    async def _namespace(self, stack: contextlib.AsyncExitStack) -> str:
        name = await make_namespace(self.admin, user_of(consumer_kubeconfig()))
        stack.push_async_callback(drop_namespace, self.admin, name)
        kept = {"metadata": {"name": "kept"}, "stringData": {"there": "value"}}
        await self.admin.request("POST", path_of(name, "secrets"), body=kept)
        return name

    def _config(self, place: Place) -> dict[str, Any]:
        kubernetes: dict[str, Any] = {
            "namespace": place.namespace, "kubeconfig": str(consumer_kubeconfig()),
            "requests": {"cpu": "10m", "memory": "16Mi"}, "image_pull_grace": 2, "allowed_secrets": ["kept"],
            "allowed_node_selectors": ["*"], "sweep_interval": 4, "lease_seconds": 6,
        }  # fmt: skip
        if not place.real:
            kubernetes |= {"labels": {"bench": self.mark}, "log_streams": 0}  # a simulated pod's log never begins
            if place.faktory:  # two stores in one namespace
                kubernetes["lease"] = place.name
        config = {
            "queue_url": place.faktory or place.store, "queues": [place.queue], "executor": "kubernetes",
            "concurrency": place.slots, "shutdown_grace": 2, "state_directory": str(place.folder / "state"),
            "jobs": {"grace": 1}, "kubernetes": kubernetes,
        }  # fmt: skip
        return config | ({"records_url": place.store} if place.faktory else {})

    async def _work(self) -> None:
        until = time.monotonic() + 60 * self.minutes
        faults = self.last_fault = until - QUIET
        self.said = (self.folder / "faults").open("w")
        beside = [asyncio.create_task(self._sample())]
        servers = [("redis", self.redis_up, True), ("faktory", self.faktory_up, self.faktory.restarts)]
        servers.append(("kube-apiserver", Up(), "LONGSHORE_TEST_RESTART" in os.environ))
        hitting = [self._restarting(what, up, faults) for what, up, can in servers if can and what in self.kinds]
        if "consumers" in self.kinds:
            hitting += [group.disturb_until(self._lot(), faults, 15 / self.pace, self._tell) for group in self.replicas]
        try:
            async with asyncio.TaskGroup() as tasks:
                for load in self.loads:
                    tasks.create_task(load.produce(self._lot(), until))
                for hit in hitting:
                    tasks.create_task(hit)
        finally:
            await end(*beside)
            self.said.close()

    def _lot(self) -> random.Random:
        return random.Random(self.rng.random())

    def _tell(self, what: str) -> None:
        self.last_fault = time.monotonic()
        print(f"{time.time():.3f} {what}", file=self.said, flush=True)

    async def _restarting(self, what: str, up: Up, ends: float) -> None:
        rng = self._lot()
        while True:
            await asyncio.sleep(rng.uniform(0.3, 1.7) * EVERY[what] / self.pace)
            if time.monotonic() > ends:
                return
            async with up.by(what):
                self._tell(what)
                if what == "redis":
                    await asyncio.to_thread(self.server.stop, kill=True)
                    await asyncio.sleep(rng.uniform(0, 2))
                    await asyncio.to_thread(self.server.start)
                elif what == "faktory":
                    await self.faktory.restart(rng.uniform(0, 3))
                else:
                    await restarted(what)
                self._tell(f"{what} is back")
            self.faults[what] += 1

    async def _sample(self) -> None:
        told = 0.0
        while True:
            await asyncio.sleep(SAMPLE)
            for group in self.replicas:
                group.sample()
            if time.monotonic() - told > 60:
                told = time.monotonic()
                counts = sum((load.counts for load in self.loads), Counter[str]())
                wrongs = [text for load in self.loads for text in load.wrongs]
                print(f"{counts['enqueued']} enqueued, {counts['ended']} ended, {dict(self.faults)}, "
                      f"{len(wrongs)} wrong {wrongs[-1:]}; longest hold of Redis: {self.redis_up.longest}",
                      file=sys.stderr, flush=True)  # fmt: skip

    async def _settled(self) -> None:
        """Nothing of any job is left, some time after the last one's end."""
        self.figures["seconds from the last fault to the last end"] = round(time.monotonic() - self.last_fault)
        began, found = time.monotonic(), [""]
        while found and time.monotonic() - began < GONE:
            await asyncio.sleep(1)
            found = []
            for place in self.places:
                try:
                    found += await left(self.admin, place, self.mark)
                except ApiError as error:
                    found.append(f"I5: {error}")
        self.wrongs += found

    async def _audited(self, place: Place) -> str:
        command = ["-m", "enqueue.cli", "audit", "--config", str(place.folder / "longshore.yaml"), "--json"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        said = [text.decode()[-2000:] for text in await process.communicate()]
        return f"longshore audit of {place.name} ({process.returncode}): {said}" if process.returncode else ""

    def _counted(self, place: Place) -> Iterator[str]:
        load = self.loads[self.places.index(place)]
        expected = {
            "kind": "faktory" if place.faktory else "rq", "redis": place.store, "queues": [place.queue], "runs": "",
            "jobs": dict.fromkeys(load.ids, place.queue), "ran": [], "faktory": self.faktory.store, "sets": {},
        }  # fmt: skip
        path = place.folder / "expected.json"
        path.write_text(json.dumps(expected))
        command = [sys.executable, str(Path(__file__).parent / "count_records.py"), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        head, *rest = done.stdout.splitlines() or ["{}"]
        self.figures[place.name] = json.loads(head)
        yield from (f"count of {place.name}: {text}" for text in rest)
        if done.returncode and not rest:
            yield f"count of {place.name} ended with {done.returncode}: {head} {done.stderr[-2000:]}"
        yield from told_secrets(place.store)

    def _judge(self) -> None:
        for place, load, group in zip(self.places, self.loads, self.replicas, strict=True):
            found = [*load.wrongs, *place.ledger.wrongs(set(load.ids), load.twice, load.outside)]
            found += [*group.wrongs, *group.said(), *group.grown(place.slots)]
            self.wrongs += [f"{place.name}: {text}" for text in found]
            self.faults.update({f"consumer {what}": count for what, count in group.hits.items()})
            shown = ("CREATED", "ends judged", "most claims")
            self.figures[place.name] |= {name: place.ledger.counts[name] for name in shown}
            self.figures[place.name] |= {name: load.counts[name] for name in ("log lines", "held back")}
            self.figures[place.name]["slowest job, s"] = round(load.slowest)

    def _told(self) -> int:
        figures = self.figures | {"faults": dict(self.faults), "violations": len(self.wrongs)}
        figures["lost"] = sum(re.search(r"has no Record|is lost|is (queued|starting|running)", w) is not None
                              for w in self.wrongs)  # fmt: skip
        figures["doubled"] = sum(re.search("two pods|more than once|I3", text) is not None for text in self.wrongs)
        figures["this script's peak MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(json.dumps(figures, indent=1))
        print("| consumer | lived, s | MB, first third | last third | peak | files, first third | last third |")
        print("|---|---|---|---|---|---|---|")
        lived = [life for group in self.replicas for life in group.lifetimes if life.seconds > 60]
        for life in sorted(lived, key=lambda life: -life.seconds)[:30]:
            first, last, files, more = life.thirds()
            print(
                f"| {life.name} | {life.seconds:.0f} | {first:.1f} | {last:.1f} | {life.peak:.1f} | {files} | {more} |"
            )
        for text in self.wrongs[:200]:
            print(text)
        return 1 if self.wrongs else 0


@contextlib.contextmanager
def folder_of(keep: Path | None) -> Iterator[Path]:
    """The given one, or one for this run."""
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
    else:
        with tempfile.TemporaryDirectory(prefix="longshore-soak-") as folder:
            yield Path(folder)


async def main() -> None:
    """Run it, and exit with 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000))
    parser.add_argument("--pace", type=float, default=1.0, help="of jobs and faults")
    parser.add_argument("--keep", type=Path, help="an empty folder for what the consumers log")
    parser.add_argument("--place", choices=PLACES, action="append", help="only this one; may be given several times")
    parser.add_argument("--fault", choices=FAULTS, action="append", help="only this kind; may be given several times")
    chosen = parser.parse_args()
    if "KUBECONFIG" not in os.environ:
        parser.error("KUBECONFIG isn't set: real and simulated pods are what this is about")
    print(f"--minutes {chosen.minutes:g} --seed {chosen.seed} --pace {chosen.pace:g}", flush=True)
    with folder_of(chosen.keep) as folder:
        names, faults = chosen.place or list(PLACES), chosen.fault or list(FAULTS)
        code = await Soak(chosen.minutes, chosen.seed, chosen.pace, folder, names, faults).run()
    sys.exit(code)


if __name__ == "__main__":
    ending.run(main())
