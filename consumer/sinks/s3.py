"""Logs as objects of an S3 server: in parts of one size, so that whoever goes on knows what each of them holds.

A part that comes twice replaces itself. An upload that nobody completes stays until the bucket's own rules remove it.
"""

from __future__ import annotations

import gzip
from xml.sax.saxutils import escape

from consumer.bucket import Answer, Bucket, child
from consumer.storing import Refused

PART = 5 * 1024 * 1024
"""The least that S3 takes for a part; it takes 10,000 of them."""
TEXT = "text/plain; charset=utf-8"
MARK = "x-amz-meta-longshore"
_GONE = "the upload is gone: somebody else has ended it"


class S3Target:
    """A log, or another file, in a bucket: one PUT if it is small, else a multipart upload."""

    part = PART
    resumes = True

    def __init__(
        self,
        bucket: Bucket,
        path: str,
        mark: str = "",
        *,
        compress: bool = False,
        kind: str = "text/plain; charset=utf-8",
    ) -> None:
        """`mark`: whose it is, for whoever finds an object under the same key. `kind`: its media type."""
        self._bucket = bucket
        self._key = bucket.key(path)
        self._mark = mark
        self._kind = kind
        self._compress = compress
        self._upload = ""
        self._etags: list[str] = []
        self._whole = self._entered = False
        self.url: str | None = bucket.link(self._key)

    async def stored(self) -> int:
        """Bytes in the parts that a former consumer has uploaded, or in the object that it completed."""
        answer = await self._ask("GET", "", {"uploads": "", "prefix": self._key})
        found = [upload for upload in answer.elements("Upload") if child(upload, "Key") == self._key]
        if not found:
            return await self._completed()
        self._upload = child(max(found, key=lambda upload: child(upload, "Initiated")), "UploadId")
        marker = "0"
        while marker:
            query = {"uploadId": self._upload, "part-number-marker": marker}
            answer = await self._ask("GET", self._key, query)
            for part in answer.elements("Part"):
                if int(child(part, "PartNumber")) != len(self._etags) + 1 or int(child(part, "Size")) != PART:
                    return len(self._etags) * PART
                self._etags.append(child(part, "ETag"))
            truncated = answer.texts("IsTruncated") == ["true"]
            marker = (answer.texts("NextPartNumberMarker") or [""])[0] if truncated else ""
        return len(self._etags) * PART

    async def put(self, offset: int, data: bytes, *, last: bool) -> None:
        """Store a part, or all of a small log."""
        if offset == 0 and last and not self._upload:
            await self._put_whole(data)
            return
        if self._whole:
            raise Refused("its end has been stored already, without what follows")
        if not self._upload:
            answer = await self._ask("POST", self._key, {"uploads": ""}, headers=self._headers)
            self._upload = (answer.texts("UploadId") or [""])[0]
            if not self._upload:
                raise Refused(f"{self.url}: the server begins no upload: is it one of the S3 API?")
        number = offset // PART + 1
        answer = await self._ask("PUT", self._key, {"partNumber": str(number), "uploadId": self._upload}, data)
        if answer.status == 404:
            raise Refused(_GONE)
        self._etags[number - 1 :] = [answer.headers.get("ETag", "")]

    async def close(self, size: int) -> None:
        """Make it an object."""
        if not self._whole:
            if not self._upload:
                await self._put_whole(b"")
            else:
                await self._complete(size)
        await self._leave()

    async def abandon(self) -> None:
        """Leave the parts where they are, for whoever goes on."""
        await self._leave()

    @property
    def _headers(self) -> dict[str, str]:
        return {"Content-Type": self._kind, MARK: self._mark}

    async def _put_whole(self, data: bytes) -> None:
        headers = self._headers
        if self._compress and data:
            data = gzip.compress(data, 6, mtime=0)
            headers["Content-Encoding"] = "gzip"
        await self._ask("PUT", self._key, None, data, headers)
        self._whole = True

    async def _complete(self, size: int) -> None:
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag)}</ETag></Part>"
            for number, etag in enumerate(self._etags, 1)
        )
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        answer = await self._ask("POST", self._key, {"uploadId": self._upload}, body, {"Content-Type": "text/xml"})
        if answer.status == 404 and await self._completed() != size:  # an answer that got lost, or somebody else
            raise Refused(_GONE)

    async def _completed(self) -> int:
        """The size of the object, if it is this attempt's."""
        answer = await self._ask("HEAD", self._key)
        if answer.status == 404 or answer.headers.get(MARK) != self._mark or "Content-Encoding" in answer.headers:
            return 0
        self._whole = True
        return int(answer.headers.get("Content-Length", 0))

    async def _ask(
        self,
        method: str,
        key: str,
        query: dict[str, str] | None = None,
        data: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        if not self._entered:
            self._entered = True
            self._bucket.enter()
        return await self._bucket.ask(method, key, query=query, data=data, headers=headers)

    async def _leave(self) -> None:
        if self._entered:
            self._entered = False
            await self._bucket.leave()
