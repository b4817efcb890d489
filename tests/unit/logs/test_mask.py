"""Masks: the same result for every split, no part of a secret left, nothing held back without need."""

from __future__ import annotations

import base64
import json
import os
import shlex
import string
import subprocess
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.logs import mask as module
from consumer.logs.forms import LONGEST
from consumer.logs.mask import Mask


def masked(mask: Mask, pieces: list[bytes]) -> bytes:
    return b"".join([*(mask.feed(piece) for piece in pieces), mask.finish()])


def expected(variants: tuple[bytes, ...], data: bytes) -> bytes:
    """The definition, byte by byte: whatever lies in an occurrence goes; occurrences that overlap become one mask."""
    there = [v for v in variants if v in data]
    found = {(at, at + len(v)) for v in there for at in range(len(data)) if data.startswith(v, at)}
    out, at, reach = b"", 0, 0
    for start, end in sorted(found):
        if start >= reach:
            out += data[at:start] + b"***"
        at = reach = max(reach, end)
    return out + data[at:]


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


SECRETS = st.lists(st.text("ab\n", min_size=3, max_size=9).map(str.encode), max_size=5)
TEXTS = st.text("ab\nc", max_size=60).map(str.encode)
CUTS = st.lists(st.integers(0, 10**6), max_size=8)


@settings(max_examples=400)
@given(SECRETS, TEXTS, CUTS)
def test_any_split_is_masked_like_the_whole(secrets: list[bytes], text: bytes, cuts: list[int]) -> None:
    mask = Mask(secrets)
    whole = expected(mask.variants, text)
    assert masked(Mask(secrets), [text]) == whole
    assert masked(Mask(secrets), split(text, cuts)) == whole
    assert masked(Mask(secrets), [bytes([byte]) for byte in text]) == whole


@settings(max_examples=200)
@given(SECRETS, st.lists(st.one_of(st.integers(0, 4), st.sampled_from([b"a", b"\n", b"ab", b"x"])), max_size=12), CUTS)
def test_secrets_that_overlap_or_touch(secrets: list[bytes], parts: list[int | bytes], cuts: list[int]) -> None:
    text = b"".join(p if isinstance(p, bytes) else secrets[p % len(secrets)] if secrets else b"" for p in parts)
    mask = Mask(secrets)
    assert masked(mask, split(text, cuts)) == expected(mask.variants, text)


@settings(max_examples=200)
@given(SECRETS, TEXTS, CUTS)
def test_the_table_for_many_finds_the_same(secrets: list[bytes], text: bytes, cuts: list[int]) -> None:
    few, many = Mask(secrets), Mask(secrets)
    if many.variants:
        many._prefixes = module._Prefixes(many.variants)
    assert masked(many, split(text, cuts)) == masked(few, [text])


@settings(max_examples=60)
@given(SECRETS, TEXTS, CUTS, st.booleans())
def test_ruling_out_words_together_changes_nothing(
    secrets: list[bytes], text: bytes, cuts: list[int], bare: bool
) -> None:
    mask = Mask(secrets)
    words = [v for v in mask.variants if not bare or b"\n" not in v]
    if words:
        mask._grams = module._Grams(words, 1, 3, bare=bare)
        mask._others = tuple(set(mask.variants).difference(words))
    assert masked(mask, split(text, cuts)) == expected(mask.variants, text)


@settings(max_examples=60)
@given(SECRETS, SECRETS, st.lists(TEXTS, max_size=6), CUTS)
def test_what_is_learned_counts_from_its_place_on_in_any_split(
    first: list[bytes], later: list[bytes], texts: list[bytes], cuts: list[int]
) -> None:
    lines = [text.replace(b"\n", b" ") + b"\n" for text in texts]

    def run(blocks: list[list[int]]) -> bytes:
        mask, out = Mask(first), b""
        for block in blocks:
            at = 0
            for index in block:
                if index < len(later):
                    mask.learn(later[index], at)
                at += len(lines[index])
            out += mask.feed(b"".join(lines[index] for index in block))
        return out + mask.finish()

    order = list(range(len(lines)))
    places = sorted({cut % (len(lines) + 1) for cut in cuts})
    split_up = [order[a:b] for a, b in zip([0, *places], [*places, len(lines)], strict=True)]
    assert run(split_up) == run([order])


def test_many_variants_are_ruled_out_together_and_found() -> None:
    secrets = [f"{i:02}{'kX3' * (i % 9 + 2)}-{i}" for i in range(30)]
    mask = Mask(secrets)
    assert mask._grams is not None
    for secret in secrets:
        for form in (secret, secret.encode().hex(), base64.b64encode(secret.encode()).decode().rstrip("=")[:-1]):
            assert "***" in mask.mask_text(f"x{form} y"), form


def test_many_tokens_among_long_words() -> None:
    secrets = [f"{i:02}" + "token" * 4 for i in range(20)]
    text = " ".join(f"{i}/{'w' * i}:{secret}{'=' * i}" for i, secret in enumerate(secrets))
    assert Mask(secrets).mask_text(text) == " ".join(f"{i}/{'w' * i}:***{'=' * i}" for i in range(20))


@given(SECRETS, st.lists(st.text("ab c", max_size=9).map(lambda line: line.encode() + b"\n"), max_size=8))
def test_a_whole_line_is_never_held_without_a_secret_of_several_lines(secrets: list[bytes], lines: list[bytes]) -> None:
    secrets = [s for s in secrets if b"\n" not in s]
    mask = Mask(secrets)
    for line in lines:
        assert mask.feed(line) == expected(mask.variants, line)
    assert mask.finish() == b""


def test_a_line_is_held_only_while_a_secret_of_several_lines_may_be_open() -> None:
    mask = Mask(["first line\nsecond line"])
    assert mask.feed(b"nothing here\n") == b"nothing here\n"
    assert mask.feed(b"see: first line\n") == b"see: "
    assert mask.feed(b"other\n") == b"***\nother\n"
    assert mask.feed(b"first line\n") == b""
    assert mask.feed(b"second line\nend\n") == b"***\nend\n"


def test_lines_of_a_secret_are_masked_by_themselves_if_they_are_long_enough() -> None:
    mask = Mask(["-----BEGIN\n  abcdefgh\r\nxyz\n"])
    assert mask.mask_text("abcdefgh xyz -----BEGIN") == "*** xyz ***"
    assert mask.mask_text("-----BEGIN\r\n  abcdefgh\r\nxyz\r\n") == "***"


def test_no_secrets_costs_nothing() -> None:
    block = b"a line\n" * 10
    assert Mask([]).feed(block) is block
    assert Mask(["secret"]).feed(block) is block


def test_short_values_are_counted_and_left() -> None:
    mask = Mask(["a", "ab", "", "abc", "ab"])
    assert mask.unmasked == 2
    assert mask.mask_text("a ab abc") == "a ab ***"


@pytest.mark.parametrize("prefix", ["", "x", "xy", "user:", "xyz12"])
@pytest.mark.parametrize("suffix", ["", "\n", "yz", "@host"])
@pytest.mark.parametrize("secret", ["hunter22", "p4ss/w0rd?>~~", "šifra+?", "0123456789" * 5])
def test_base64_at_every_alignment_in_both_alphabets(secret: str, prefix: str, suffix: str) -> None:
    mask = Mask([secret])
    plain = (prefix + secret + suffix).encode()
    for encoded in (base64.b64encode(plain), base64.urlsafe_b64encode(plain)):
        out = masked(mask, [b"Authorization: Basic " + encoded + b"\n"])
        assert b"***" in out
        # at most the characters that share bits with the neighbours are left
        left = out.split(b"Basic ")[1].replace(b"***", b"").strip()
        assert len(left) <= len(base64.b64encode((prefix + suffix).encode())) + 4


@given(st.text(string.printable + "éß漢", min_size=6, max_size=30))
def test_forms(secret: str) -> None:
    mask = Mask([secret])
    forms = [
        secret,
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        secret.encode().hex(),
        secret.encode().hex().upper(),
        shlex.quote(secret).removeprefix("'").removesuffix("'"),
        repr(secret)[1:-1],
    ]
    for form in forms:
        assert mask.mask_text(f"<{form}>") == "<***>"


QUOTING = r"""
printf '%q\n' "$V"; declare -p V; export -p | grep -A3 ' V='; set -x; : "$V"; env | grep -A3 ^V=
"""


@pytest.mark.parametrize("value", ['it\'s a "secret" $x `y` \\z', "tab\tnew\nline'é", "~a#b!c&d*e(f)g", "plain-token"])
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_what_a_shell_prints_of_it(value: str, locale: str) -> None:
    path = os.environ["PATH"]
    ran = subprocess.run(["bash", "-c", QUOTING], env={"V": value, "PATH": path, "LC_ALL": locale}, capture_output=True)
    out = masked(Mask([value]), [ran.stdout + ran.stderr])
    assert out.count(b"***") >= 5
    for part in (b"secret", b"token", b"line", b"b!c"):
        if part in value.encode():
            assert part not in out.replace(b"declare", b"").replace(b"grep", b""), out


def test_short_values_have_no_forms() -> None:
    assert Mask(["abcde"]).variants == (b"abcde",)


def test_bytes_that_are_no_text() -> None:
    secret = b"\xff\xfe\x00secret"
    assert masked(Mask([secret]), [b"<", secret, b">\n"]) == b"<***>\n"


def test_a_huge_secret_is_masked_in_pieces_and_little_is_held() -> None:
    secret = "".join(chr(33 + (i * i) % 90) for i in range(3 * LONGEST + 7))
    mask = Mask([secret])
    out = masked(mask, split(f"a {secret} b".encode(), list(range(0, 12000, 777))))
    assert out.replace(b"***", b"") == b"a  b"
    assert max(map(len, mask.variants)) == LONGEST


def test_a_periodic_secret_in_a_periodic_log() -> None:
    mask = Mask(["ab" * 2000])
    assert masked(mask, [b"ab" * 32768] * 4) == b"***"


def test_text_leaves_the_log_alone() -> None:
    mask = Mask(["secret-one"])
    assert mask.feed(b"the secret-") == b"the "
    assert mask.mask_text("one secret-one") == "one ***"
    assert mask.feed(b"one\n") == b"***\n"
