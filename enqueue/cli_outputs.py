"""The command `longshore outputs`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from enqueue.cli_options import JobId, JsonFlag, QueueUrl, RecordsUrl, producer_at
from enqueue.errors import UsageError

if TYPE_CHECKING:
    from enqueue.record import Output


def outputs(
    job_id: JobId,
    get: Annotated[str | None, typer.Option("--get", help="Write the file of this name to standard output.")] = None,
    directory: Annotated[Path | None, typer.Option("--output", "-o", help="Write all files to this folder.")] = None,
    url: Annotated[str | None, typer.Option("--url", help="Print a signed URL of this file, good for an hour.")] = None,
    queue_url: QueueUrl = None,
    records_url: RecordsUrl = None,
    as_json: JsonFlag = False,
) -> None:
    """List the files that a job left in $LONGSHORE_OUTPUTS, or fetch them."""
    from enqueue.stored import fetch, presigned

    with producer_at(queue_url, records_url) as producer:
        found: Sequence[Output] = producer.handle(job_id).outputs()
    if get is not None:
        for part in fetch(_named(found, get)):
            sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
    elif url is not None:
        print(presigned(_named(found, url).url or ""))
    elif directory is not None:
        _save(found, directory)
    elif as_json:
        print(json.dumps([output.model_dump(exclude_none=True) for output in found]))
    else:
        from enqueue.show import print_outputs

        print_outputs(found)


def _named(found: Sequence[Output], name: str) -> Output:
    for output in found:
        if output.name == name:
            return output
    raise UsageError(f"the job left no file '{name}'" + (f"; it left {len(found)} others" if found else ""))


def _save(found: Sequence[Output], directory: Path) -> None:
    """All that were kept; names that would leave the folder, or overwrite what is there, are refused."""
    from enqueue.stored import fetch

    missing = 0
    for output in found:
        parts = output.name.split("/")
        if output.url is None:
            print(f"longshore: {output.name}: {output.problem}", file=sys.stderr)
            missing += 1
            continue
        if any(part in ("", ".", "..") for part in parts) or "\0" in output.name:
            print(f"longshore: {output.name!r}: not written: the name leaves the folder; use --get", file=sys.stderr)
            missing += 1
            continue
        path = directory.joinpath(*parts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), "wb") as out:
                for part in fetch(output):
                    out.write(part)
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from None
        print(path)
    if missing:
        raise typer.Exit(1)
