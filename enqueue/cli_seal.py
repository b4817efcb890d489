"""The commands `longshore keygen` and `longshore seal`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from enqueue.errors import UsageError

SealKey = Annotated[
    str | None,
    typer.Option(
        "--seal", envvar="LONGSHORE_SEAL_KEY", help="Seal the sensitive variables for the owners of this public key."
    ),
]


def keygen(
    file: Annotated[Path, typer.Argument(help="Where the private key goes; the consumers' jobs.seal_keys.")],
    add: Annotated[
        bool, typer.Option("--add", help="To a file that has keys already: the old ones still open.")
    ] = False,
) -> None:
    """Make a pair of keys for sealed variables: the private one into a file, the public one is printed."""
    from enqueue.seal import new_key

    private, public = new_key()
    flags = os.O_WRONLY | (os.O_APPEND if add else os.O_CREAT | os.O_EXCL)
    try:
        with os.fdopen(os.open(file, flags, 0o600), "w") as out:
            out.write(f"# {public}\n{private}\n")
    except FileExistsError:
        raise UsageError(f"{file}: exists already; --add adds a key to it") from None
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from None
    print(public)


def seal(
    file: Annotated[str, typer.Option("--file", "-f", help="A job file, YAML or JSON; - is standard input.")],
    key: Annotated[
        str, typer.Option("--key", envvar="LONGSHORE_SEAL_KEY", help="The public key, as `longshore keygen` prints it.")
    ],
) -> None:
    """Print a job as JSON, its sensitive variables sealed for the consumers."""
    from enqueue.files import load_job

    print(json.dumps(load_job(file).seal(key).payload(), indent=2, ensure_ascii=False))
