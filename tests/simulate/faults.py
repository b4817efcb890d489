"""What happens to a history's consumers and servers, drawn from its seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulate.wire import Weather
    from simulate.world import Consumer, World

RESTART = 2.0
"""Seconds that a kubelet needs, at least, until it tells of its pods again."""
SPAN = 30.0
"""Virtual seconds within which faults begin."""


@dataclass
class Fault:
    """`what` happens `at` seconds, and lasts so many `seconds`."""

    at: float
    what: str
    seconds: float
    share: float = 0.0


@dataclass
class Plan:
    """How many consumers there are, and what happens to them."""

    consumers: int
    faults: list[Fault] = field(default_factory=list)

    @property
    def over(self) -> float:
        """When the last one is over."""
        return max((fault.at + fault.seconds for fault in self.faults), default=0.0)

    def begin(self, world: World) -> None:
        """Have it all happen."""
        for fault in self.faults:
            world.loop.later(fault.at, KINDS[fault.what], world, fault)


def drawn_plan(rng: random.Random) -> Plan:
    """Some faults; few in most histories, so that each is seen alone too. In a tenth of them a server is away long."""
    count = rng.choice((0, 1, 1, 2, 3, 4, 6))
    faults = []
    for _ in range(count):
        what = rng.choice([*KINDS])
        seconds = rng.choice((rng.uniform(0.01, 1), rng.uniform(1, 9), rng.uniform(8, 25)))
        faults.append(Fault(rng.uniform(0.5, SPAN), what, seconds, rng.choice((0.1, 0.5, 0.9))))
    consumers = rng.choice((1, 2, 2, 3))
    if rng.random() < 0.1:
        faults.append(Fault(rng.uniform(0.5, SPAN), rng.choice(OUTAGES), rng.uniform(60, 600)))
    return Plan(consumers, sorted(faults, key=lambda fault: fault.at))


def _victim(world: World) -> Consumer | None:
    living = [consumer for consumer in world.consumers if consumer.lives and not consumer.process.paused]
    return world.rng.choice(living) if living else None


def _kill(world: World, fault: Fault) -> None:
    victim = _victim(world)
    if victim is not None:
        world.tell(f"{victim.process.name} is killed")
        victim.process.kill(world.loop)
        world.loop.later(fault.seconds, world.start_consumer, victim.slot)


def _kill_all(world: World, fault: Fault) -> None:
    for victim in [consumer for consumer in world.consumers if consumer.lives]:
        world.tell(f"{victim.process.name} is killed with all others")
        victim.process.kill(world.loop)
        world.loop.later(fault.seconds, world.start_consumer, victim.slot)


def _compact(world: World, fault: Fault) -> None:
    world.tell("the cluster forgets its history, and cuts all connections")
    world.kube.compact()
    world.kube.hang_up()


def _stop_kubelets(world: World, fault: Fault) -> None:
    seconds = max(RESTART, fault.seconds)
    world.tell(f"kubelets are away for {seconds:.3f} s")
    world.kube.stop_kubelets()
    world.loop.later(seconds, world.kube.start_kubelets)


def _meanwhile(**changes: object) -> Callable[[World, Fault], None]:
    """The cluster is so for a while."""

    def begin(world: World, fault: Fault) -> None:
        world.tell(f"cluster: {changes} for {fault.seconds:.3f} s")
        for name, value in changes.items():
            setattr(world.kube, name, value)

        def end() -> None:
            world.tell(f"cluster: {', '.join(changes)} is over")
            for name in changes:
                setattr(world.kube, name, CALM[name])

        world.loop.later(fault.seconds, end)

    return begin


def _terminate(world: World, fault: Fault) -> None:
    victim = _victim(world)
    if victim is not None:
        world.tell(f"{victim.process.name} gets TERM")
        victim.stop.set()
        world.loop.later(fault.seconds, world.start_consumer, victim.slot)


def _pause(world: World, fault: Fault) -> None:
    victim = _victim(world)
    if victim is not None:
        world.tell(f"{victim.process.name} is stopped for {fault.seconds:.3f} s")
        victim.process.paused = True
        world.loop.later(fault.seconds, _go_on, world, victim)


def _go_on(world: World, victim: Consumer) -> None:
    if victim.lives:
        world.tell(f"{victim.process.name} goes on")
        victim.process.resume(world.loop)


def _weather(server: str, **changes: float) -> Callable[[World, Fault], None]:
    def begin(world: World, fault: Fault) -> None:
        weather: Weather = getattr(world, server)
        world.tell(f"{server}: {', '.join(changes)} for {fault.seconds:.3f} s")
        for name, value in changes.items():
            setattr(weather, name, fault.share if value == SHARE else value)
        if server == "cluster" and "down" in changes:
            world.kube.hang_up()

        def end() -> None:
            world.tell(f"{server}: {', '.join(changes)} is over")
            for name in changes:
                setattr(weather, name, NORMAL[name])

        world.loop.later(fault.seconds, end)

    return begin


CALM = {"refuses": None, "busy": 0, "cut_logs": 0.0}
SHARE = -1.0
NORMAL = {"down": False, "slow": 1.0, "lose_replies": 0.0, "refuse": 0.0}

KINDS: dict[str, Callable[[World, Fault], None]] = {
    "kill": _kill,
    "kill_all": _kill_all,
    "terminate": _terminate,
    "pause": _pause,
    "redis_down": _weather("redis", down=True),
    "redis_slow": _weather("redis", slow=300.0),
    "redis_replies_lost": _weather("redis", lose_replies=SHARE),
    "cluster_down": _weather("cluster", down=True),
    "cluster_slow": _weather("cluster", slow=500.0),
    "cluster_replies_lost": _weather("cluster", lose_replies=SHARE),
    "cluster_refuses": _weather("cluster", refuse=SHARE),
    "cluster_forgets": _compact,
    "cluster_full": _meanwhile(refuses="quota"),
    "cluster_broken": _meanwhile(refuses="webhook down"),
    "cluster_busy": _meanwhile(busy=429),
    "cluster_ill": _meanwhile(busy=503),
    "logs_cut": _meanwhile(cut_logs=0.7),
    "kubelets_away": _stop_kubelets,
}
"""What may happen."""

OUTAGES = ("redis_down", "cluster_down", "cluster_full", "cluster_broken", "cluster_busy", "cluster_ill")
"""What may last: every pause between two tries grows as long as it may, and what is held for a while is let go."""
