"""The fake API server of the tests as a process of its own; prints its URL. `stay`: its pods run for ever."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.fakekube import FakeKube
from support.fakekubelet import FakePod, succeeds


async def stays(pod: FakePod) -> None:
    """Runs until it is deleted."""
    pod.schedule()
    pod.run()


async def main() -> None:
    """Serve until killed."""
    async with FakeKube("jobs", script=stays if "stay" in sys.argv else succeeds) as kube:
        print(kube.url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
