"""A job's files out of its container, by the engine: it gives a folder of a container that has ended as a tar."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

from consumer.executors.docker.engine import Engine, EngineError
from consumer.executors.places import OUTPUTS
from consumer.executors.tar_stream import read_tar
from consumer.model import Found, OutputPart
from consumer.storing import Refused

_FOLDER = OUTPUTS.rpartition("/")[2].encode() + b"/"


async def read_outputs(engine: Engine, container: str) -> AsyncIterator[OutputPart]:
    """Each file and then its bytes. Raises Refused."""
    try:
        async with engine.archive(container, OUTPUTS) as chunks:
            async for part in read_tar(chunks):
                yield replace(part, name=part.name.removeprefix(_FOLDER)) if isinstance(part, Found) else part
    except EngineError as error:
        raise Refused("the container is gone" if error.gone else str(error)) from None
