"""Paths of what is stored for a job: safe whatever its queue and id are, and never the same for two jobs. Pure."""

from __future__ import annotations

import hashlib
import re

_UNSAFE = re.compile(rb"[^A-Za-z0-9._-]")
LONGEST = 150


def safe(name: str | bytes) -> str:
    """One part of a path: letters, digits, `._-` stay, other bytes become ~XX; a long one ends in its hash."""
    raw = name if isinstance(name, bytes) else name.encode("utf-8", "surrogatepass")
    text = _UNSAFE.sub(lambda found: b"~%02X" % found[0][0], raw).decode()
    if not text or text.startswith("."):
        text = "~2E" + text[1:] if text else "~"
    if len(text) > LONGEST:
        text = f"{text[: LONGEST - 33]}-{hashlib.sha256(raw).hexdigest()[:32]}"
    return text


def path_of(template: str, queue: str, job: str, attempt: int) -> str:
    """A template of {queue}, {job} and {attempt} filled in: relative, without `..` or empty parts."""
    return template.format(queue=safe(queue), job=safe(job), attempt=attempt)


def mark_of(queue: str, job: str, attempt: int, created: str) -> str:
    """Tells what belongs to this attempt from what was stored for a former job of the same id."""
    whose = f"{queue}\0{job}\0{attempt}\0{created}"
    return hashlib.sha256(whose.encode("utf-8", "surrogatepass")).hexdigest()[:32]
