"""Can logs and outputs be stored where the settings say? Leaves nothing behind."""

from __future__ import annotations

import asyncio
import importlib.util
from typing import TYPE_CHECKING

from consumer.errors import SetupError
from consumer.findings import Finding, Level, folder_finding
from consumer.settings import S3, Settings
from consumer.sinks import open_bucket
from consumer.storing import Away, Refused

if TYPE_CHECKING:
    from consumer.bucket import Bucket

AREA = "stores"
SECONDS = 20.0
"""For all that a bucket is asked."""
_RIGHTS = "s3:PutObject, s3:GetObject, s3:ListBucket, s3:ListBucketMultipartUploads, s3:ListMultipartUploadParts"


async def check_stores(settings: Settings) -> list[Finding]:
    """The folder and the bucket, as far as they are used."""
    used = {*settings.logs.sinks, *settings.logs.allowed_sinks, settings.outputs.store}
    found = []
    if "file" in used and settings.files.directory is not None:
        what, fix = "files.directory: logs and outputs", "make it writable for the consumer's user, or name another"
        found.append(folder_finding(AREA, what, settings.files.directory, fix))
    # A package that isn't there is told among the settings.
    if "s3" in used and importlib.util.find_spec("aiohttp_s3_client") is not None:
        found.append(await _bucket(settings.s3))
    return found


async def _bucket(settings: S3) -> Finding:
    try:
        bucket = open_bucket(settings)
    except SetupError as error:
        return Finding(AREA, Level.PROBLEM, str(error), "give them to the consumer as environment variables")
    key = bucket.key("longshore-check")
    doing = "reached"
    bucket.enter()
    try:
        async with asyncio.timeout(SECONDS):
            doing = "asked for unfinished uploads"
            await bucket.ask("GET", "", query={"uploads": "", "prefix": key})
            doing = "asked for an object that isn't there"  # 403 instead of 404 without s3:ListBucket
            await bucket.ask("HEAD", key)
            doing = "written to"
            await _upload_nothing(bucket, key)
    except (Away, TimeoutError) as error:
        said = str(error) or f"no answer within {SECONDS:g} s"
        text = f"s3.bucket: {bucket.name} can't be {doing}: {said}"
        return Finding(
            AREA, Level.PROBLEM, text, "is s3.endpoint (or s3.region) right, and can it be reached from here?"
        )
    except Refused as error:
        text = f"s3.bucket: {bucket.name} can't be {doing}: {error}"
        if "NoSuchBucket" in str(error):
            return Finding(AREA, Level.PROBLEM, text, "create it, or name another one")
        return Finding(AREA, Level.PROBLEM, text, f"give the credentials {_RIGHTS} on it")
    finally:
        await bucket.leave()
    return Finding(AREA, Level.GOOD, f"{bucket.link(bucket.prefix)} can be written to")


async def _upload_nothing(bucket: Bucket, key: str) -> None:
    """Begin an upload and give it up: no object comes of it, and both want the right to write."""
    answer = await bucket.ask("POST", key, query={"uploads": ""})
    await bucket.ask("DELETE", key, query={"uploadId": (answer.texts("UploadId") or [""])[0]})
