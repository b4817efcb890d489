"""The forms in which a secret may stand in a log: as it is, per line, and as programs encode or quote it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

SHORTEST = 3
"""A shorter value (bytes) isn't masked: it would shred the log and be guessed from the holes."""

SHORTEST_FORM = 6
"""A shorter value or line of a value (bytes) is masked as it is only: not per line, not in encoded forms."""

LONGEST = 4096
"""A longer value or form is masked in pieces of this many bytes, which bounds what has to be held back."""

_BARE = re.compile(r"[\x00-\x20!\"$&-*,;<>?\[-^`{-}\x7f]")  # what a shell takes for itself
_CONTROL = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 27: "\\E"}


def variants_of(values: Iterable[bytes]) -> set[bytes]:
    """All that is to be looked for so that none of the values is shown; values below `SHORTEST` are left out."""
    found: set[bytes] = set()
    for value in values:
        if len(value) < SHORTEST:
            continue
        wanted = {value}
        if len(value) >= SHORTEST_FORM:
            wanted |= _forms(value)
            trimmed = value.strip()
            if trimmed != value and len(trimmed) >= SHORTEST_FORM:
                wanted |= {trimmed} | _forms(trimmed)
        if b"\n" in value:
            wanted.add(value.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
            for line in value.split(b"\n"):
                if len(line := line.strip()) >= SHORTEST_FORM:
                    wanted |= {line} | _quoted(line)
        for form in wanted:
            found.update(_pieces(form))
    return {variant for variant in found if len(variant) >= SHORTEST}


def _pieces(form: bytes) -> Iterable[bytes]:
    if len(form) <= LONGEST:
        return (form,)
    return (form[min(at, len(form) - LONGEST) :][:LONGEST] for at in range(0, len(form), LONGEST))


def _forms(value: bytes) -> set[bytes]:
    """The value in base64, in hexadecimal digits, and quoted."""
    forms = {value.hex().encode(), value.hex().upper().encode()} | _quoted(value)
    for shift, skip in ((0, 0), (1, 2), (2, 3)):  # a text before the secret shifts it; its own characters stay apart
        whole = (shift + len(value)) * 8 // 6
        encoded = base64.b64encode(b"\0" * shift + value)[skip:whole]
        forms |= {encoded, encoded.replace(b"+", b"-").replace(b"/", b"_")}
    return forms


def _quoted(value: bytes) -> set[bytes]:
    """The value as it stands in URLs, in JSON, in Python's texts and in shell commands."""
    forms = set()
    for quoted in (quote(value, safe=""), quote(value), quote(value, safe="!'()*"), quote_plus(value)):
        forms |= {quoted.encode(), re.sub("%..", lambda m: m[0].lower(), quoted).encode()}
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return forms
    for ascii_only in (True, False):
        escaped = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        markup = escaped.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
        forms |= {e.encode() for e in (escaped, escaped.replace("/", "\\/"), markup)}
    forms.add(repr(text)[1:-1].encode())
    return forms | {form.encode() for form in _in_shells(text)}


def _in_shells(text: str) -> Iterator[str]:
    r"""As shells print it (`set -x`, `export -p`, `printf %q`): in '...', "...", $'...' or with backslashes."""
    yield text.replace("'", "'\\''")
    yield text.replace("'", "'\"'\"'")
    yield re.sub(r'([\\"$`])', r"\\\1", text)
    bare = _BARE.sub(r"\\\g<0>", text)
    yield "\\" + bare if text.startswith(("~", "#")) else bare
    for wide in (True, False):  # in a locale that knows the characters, and in one that doesn't
        yield "".join(_in_dollar_quotes(character, wide=wide) for character in text)


def _in_dollar_quotes(character: str, *, wide: bool) -> str:
    number = ord(character)
    if character in "\\'":
        return "\\" + character
    if number in _CONTROL:
        return _CONTROL[number]
    if number < 32 or number == 127 or (number > 127 and not wide):
        return "".join(f"\\{byte:03o}" for byte in character.encode())
    return character
