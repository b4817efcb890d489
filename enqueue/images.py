"""Container image references, parsed as the distribution project's reference grammar has them.

Source: the grammar of `github.com/distribution/reference`: [host[:port]/]path[:tag][@digest].
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?:(?P<host>{_HOST})/)??(?P<path>{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(?:@(?P<digest>[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}))?",
    re.ASCII,
)


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


def parse_image(text: str) -> Image:
    """Parse an image reference.

    Raises ValueError with what is wrong and an example.
    """
    example = "an image is [host[:port]/]name[:tag][@sha256:...], such as 'alpine:3.20'"
    if not text:
        raise ValueError(f"is empty; {example}")
    if len(text) > 1024:
        raise ValueError(f"is {len(text)} characters long; {example}")
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
    digest = match["digest"] or ""
    if digest.startswith("sha256:") and len(digest) != len("sha256:") + 64:
        raise ValueError("has a sha256 digest that isn't 64 hexadecimal digits long")
    return Image(host, path, match["tag"] or ("" if digest else "latest"), digest)
