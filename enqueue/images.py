"""Container image references, parsed as the distribution project's reference grammar has them, and patterns for them.

Source: the grammar of `github.com/distribution/reference`: [host[:port]/]path[:tag][@digest], and of the digests in it
`github.com/opencontainers/go-digest`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?:(?P<host>{_HOST})/)??(?P<path>{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(?:@(?P<digest>[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}))?",
    re.ASCII,
)
_IDENTIFIER = re.compile(r"[a-f0-9]{64}", re.ASCII)
_LONGEST_PATH = 255
_DIGESTS = {"sha256": 64, "sha384": 96, "sha512": 128}
"""Algorithm -> hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class Image:
    """A parsed reference: `docker.io/library/alpine:3.20` for `alpine:3.20`."""

    host: str
    path: str
    tag: str
    digest: str

    def __str__(self) -> str:
        return (
            f"{self.host}/{self.path}"
            + (f":{self.tag}" if self.tag else "")
            + (f"@{self.digest}" if self.digest else "")
        )


@lru_cache(1024)
def parse_image(text: str) -> Image:
    """Parse an image reference.

    Raises ValueError with what is wrong and an example.
    """
    example = "an image is [host[:port]/]name[:tag][@sha256:...], such as 'alpine:3.20'"
    if not text:
        raise ValueError(f"is empty; {example}")
    if len(text) > 1024:
        raise ValueError(f"is {len(text)} characters long; {example}")
    if _IDENTIFIER.fullmatch(text):
        raise ValueError(f"is an image's id, which no registry knows, or lacks the name before @sha256:; {example}")
    match = _REFERENCE.fullmatch(text)
    if match is None:
        why = "has upper-case letters in its name" if _REFERENCE.fullmatch(text.lower()) else "can't be parsed"
        raise ValueError(f"{why}; {example}")
    host, path = match["host"] or "", match["path"]
    if not host and "/" in path:  # the first part is a host only if it looks like one
        first, rest = path.split("/", 1)
        if "." in first or first == "localhost":
            host, path = first, rest
    if host and not ("." in host or ":" in host or host == "localhost"):
        if host.lower() != host:
            raise ValueError(f"has upper-case letters in its name; {example}")
        path, host = f"{host}/{path}", ""
    if not host or host == "docker.io" or host == "index.docker.io":
        host = "docker.io"
        path = path if "/" in path else f"library/{path}"
    if len(path) > _LONGEST_PATH:
        raise ValueError(f"has a name of {len(path)} characters; at most {_LONGEST_PATH}")
    digest = match["digest"] or ""
    if digest:
        _check_digest(digest)
    return Image(host, path, match["tag"] or ("" if digest else "latest"), digest)


def _check_digest(digest: str) -> None:
    """Runtimes refuse what isn't the hash of an algorithm that they know; so must we, where a digest is required."""
    algorithm, _, digits = digest.partition(":")
    length = _DIGESTS.get(algorithm)
    if length is None:
        raise ValueError(f"has a digest by '{algorithm[:40]}'; known are {', '.join(_DIGESTS)}")
    if len(digits) != length:
        raise ValueError(f"has a {algorithm} digest of {len(digits)} hexadecimal digits; it must have {length}")
    if digits != digits.lower():
        raise ValueError(f"has a {algorithm} digest with capital letters; write it small")


@dataclass(frozen=True, slots=True)
class ImagePattern:
    """What an operator allows: a reference with `*` (within one part) and `**` (any number of parts).

    Compared is the parsed reference, never its text: `busybox` stands for `docker.io/library/busybox` on either side.
    A pattern without a tag and a digest allows them all. One with a tag doesn't allow a reference with a digest: then
    the digest alone says what runs, and the tag proves nothing.
    """

    text: str
    repository: re.Pattern[str]
    tag: re.Pattern[str] | None
    digest: re.Pattern[str] | None

    def matches(self, image: Image) -> bool:
        """Whether the pattern allows this image. The host's case counts, as it does for the runtime."""
        if not self.repository.fullmatch(f"{image.host}/{image.path}"):
            return False
        if self.digest is not None:
            return bool(self.digest.fullmatch(image.digest)) and (self.tag is None or self._tagged(image))
        return self.tag is None or (not image.digest and self._tagged(image))

    def _tagged(self, image: Image) -> bool:
        return self.tag is not None and bool(self.tag.fullmatch(image.tag))


@lru_cache(1024)
def parse_pattern(text: str) -> ImagePattern:
    """Read a pattern such as `registry.example.com/team/**`, `busybox:1.*` or `ghcr.io/org/*@sha256:*`.

    Raises ValueError with what is wrong.
    """
    example = "a pattern is [host[:port]/]name[:tag][@digest] with * and **, such as 'registry.example.com/team/**'"
    rest, at, digest = text.partition("@")
    head, slash, last = rest.rpartition("/")
    last, colon, tag = last.partition(":")
    parts = (head + slash + last).split("/")
    if (at and not digest) or (colon and not tag) or len(text) > 1024 or not all(parts):
        raise ValueError(f"'{text[:80]}' can't be read; {example}")
    first = parts[0]
    hosted = len(parts) > 1 and ("." in first or ":" in first or first in ("localhost", "*", "**"))
    if parts != ["**"]:
        if not hosted:
            parts = ["docker.io", *(["library"] if len(parts) == 1 else []), *parts]
        elif first == "index.docker.io":
            parts[0] = "docker.io"
        if parts[0] == "docker.io" and len(parts) == 2 and parts[1] != "**":
            parts.insert(1, "library")
    plain = all(re.fullmatch(r"[a-z0-9._*-]+", part, re.ASCII) for part in parts[1:])
    host = re.fullmatch(r"[a-zA-Z0-9.*-]+(?::[0-9*]{1,5})?|\[[0-9a-fA-F:]+\](?::[0-9*]{1,5})?", parts[0], re.ASCII)
    if not (plain and host and re.fullmatch(r"[A-Za-z0-9_.*-]*", tag, re.ASCII)) or not re.fullmatch(
        r"[A-Za-z0-9:_+.*-]*", digest, re.ASCII
    ):
        raise ValueError(f"'{text[:80]}' can't be read; {example}")
    return ImagePattern(
        text,
        re.compile("/".join(_globbed(part) for part in parts)),
        re.compile(_globbed(tag)) if tag else None,
        re.compile(_globbed(digest, "[^/]*")) if digest else None,
    )


def _globbed(part: str, star: str = "[^/:]*") -> str:
    """`**` as a whole part: any parts, at least one; `*`: any characters of one part, but the colon of a port."""
    if part == "**":
        return r"[^/]+(?:/[^/]+)*"
    return star.join(re.escape(piece) for piece in re.split(r"\*+", part))
