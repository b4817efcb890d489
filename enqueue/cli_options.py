"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated, Any

import typer

QueueUrl = Annotated[
    str | None,
    typer.Option(
        "--queue-url",
        envvar="LONGSHORE_QUEUE_URL",
        help="redis://, rediss://, unix:// (RQ); faktory://, tcp:// (Faktory). Else as Faktory's clients find it "
        "(FAKTORY_PROVIDER, FAKTORY_URL), else redis://localhost:6379/0.",
    ),
]
RecordsUrl = Annotated[
    str | None,
    typer.Option("--records-url", envvar="LONGSHORE_RECORDS_URL", help="Redis with the Records of Faktory's jobs."),
]
JobId = Annotated[str, typer.Argument(help="The job's id, as `longshore enqueue` prints it.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
FileOption = Annotated[str, typer.Option("--file", "-f", help="A job file, YAML or JSON; - is standard input.")]

DEFAULT_URL = "redis://localhost:6379/0"


def producer_at(url: str | None, records: str | None, connect: Callable[..., Any] | None = None) -> Any:
    """A producer; where the queue keeps the Records itself, no other place counts. Raises UsageError.

    `connect`: makes it, `enqueue.connect` if none is given.
    """
    from enqueue.backends import RQ_SCHEMES, faktory_url_from

    if connect is None:
        from enqueue import client

        connect = client.connect
    url = url or faktory_url_from(os.environ) or DEFAULT_URL
    return connect(url, records=None if url.split(":", 1)[0] in RQ_SCHEMES else records)
