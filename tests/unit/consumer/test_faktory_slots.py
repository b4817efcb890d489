"""How many FETCHes are in flight, when answers of Faktory and of the store of Records come at one moment."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from typing import Any

from consumer.queues.faktory import FaktoryQueue
from consumer.queues.faktory_records import ClaimState


class Connected:
    """A fetch connection that is always there, and counts."""

    usable, connecting = True, False

    def __init__(self) -> None:
        self.busy, self.started = False, 0

    def start(self) -> None:
        self.busy = True
        self.started += 1


class Asked:
    """A store of Records that answers when the test says so."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[Sequence[ClaimState]] = asyncio.get_running_loop().create_future()

    async def claim(self, fetched: Any) -> Sequence[ClaimState]:
        return await self.answer


def job(jid: str) -> bytes:
    return json.dumps({"jid": jid, "queue": "q", "jobtype": "longshore.job", "args": [{"image": "a"}]}).encode()


async def rounds() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_has_become_a_claim_takes_its_slot_while_an_answer_is_read() -> None:
    records, fetchers = Asked(), [Connected() for _ in range(4)]
    queue = FaktoryQueue("tcp://localhost:7419", ["q"], records=records, consumer="one", max_bytes=1000)  # type: ignore[arg-type]
    queue._fetchers = fetchers  # type: ignore[assignment]
    queue._look_at = math.inf

    def arrive(jid: str) -> None:
        next(fetcher for fetcher in fetchers if fetcher.busy).busy = False
        queue._arrived(job(jid))

    claiming = asyncio.create_task(queue.claim(2))
    await rounds()
    arrive("a")
    await rounds()
    assert sum(fetcher.started for fetcher in fetchers) == 2
    records.answer.set_result([ClaimState(1, None, False, "ours")])  # before the claim loop's next turn
    arrive("b")
    assert [claim.id for claim in await claiming] == ["a"]
    assert sum(fetcher.started for fetcher in fetchers) == 2, "two slots, two jobs on their way"
    assert [claim.id for claim in await queue.claim(1)] == ["b"]
