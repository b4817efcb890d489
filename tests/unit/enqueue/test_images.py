"""Image references and the patterns that allow them: nothing outside a pattern gets through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enqueue.images import parse_image, parse_pattern

DIGEST = "sha256:" + "0" * 64


def allows(pattern: str, image: str) -> bool:
    return parse_pattern(pattern).matches(parse_image(image))


@pytest.mark.parametrize(
    ("pattern", "image"),
    [
        ("busybox", "busybox"),
        ("busybox", "docker.io/library/busybox:1.36"),
        ("docker.io/busybox", "index.docker.io/library/busybox"),
        ("index.docker.io/library/*", f"busybox@{DIGEST}"),
        ("*", "busybox"),
        ("org/*", "docker.io/org/app:3"),
        ("docker.io/**", "org/deep/app"),
        ("registry.example.com:5000/team/**", "registry.example.com:5000/team/a/b:1"),
        ("*.example.com/**", "eu.registry.example.com/app"),
        ("localhost/app", "localhost/app"),
        ("[::1]:5000/app", "[::1]:5000/app"),
        ("busybox:1.*", "busybox:1.36"),
        ("busybox:latest", "busybox"),
        (f"ghcr.io/org/*@{DIGEST}", f"ghcr.io/org/app@{DIGEST}"),
        ("ghcr.io/org/*@sha256:*", f"ghcr.io/org/app:1@{DIGEST}"),
        ("ghcr.io/org/*@*", f"ghcr.io/org/app@{DIGEST}"),
        ("**", f"anything.example:5000/a/b/c@{DIGEST}"),
        ("**/team/*", "any.example:5000/x/team/app"),
    ],
)
def test_allowed(pattern: str, image: str) -> None:
    assert allows(pattern, image)


@pytest.mark.parametrize(
    ("pattern", "image"),
    [
        ("busybox", "busybox2"),
        ("busybox", "evil/busybox"),
        ("busybox", "evil.example/library/busybox"),
        ("busybox", "docker.io.evil.example/library/busybox"),
        ("busybox", "docker.io:443/library/busybox"),
        ("busybox", "DOCKER.IO/library/busybox"),
        ("busybox", "registry-1.docker.io/library/busybox"),
        ("*", "evil/app"),
        ("org/*", "org/deep/app"),
        ("org/*", "org.evil.example/app"),
        ("org/**", "org2/app"),
        ("docker.io/**", "docker.io.evil.example/app"),
        ("registry.example.com/**", "registry.example.com:5000/app"),
        ("registry.example.com/**", "registry-example.com/app"),
        ("registry.example.com/**", "evil.example/registry.example.com/app"),
        ("registry.example.com:5000/**", "registry.example.com/app"),
        ("*.example.com/**", "example.com/app"),
        ("*.example.com/**", "a.example.com:80/app"),
        ("*.example.com/**", "a.example.com.evil.example/app"),
        ("ghcr.io/org/**", "ghcr.io/organisation/app"),
        ("busybox:1.*", "busybox"),
        ("busybox:1.*", "busybox:2"),
        ("busybox:1.*", f"busybox:1.36@{DIGEST}"),
        ("ghcr.io/org/*@sha256:*", "ghcr.io/org/app:sha256"),
        (f"busybox@{DIGEST}", "busybox"),
        (f"busybox@{DIGEST}", "busybox@sha256:" + "1" * 64),
        ("a-b", "a.b"),
        ("a.b", "a-b"),
    ],
)
def test_not_allowed(pattern: str, image: str) -> None:
    assert not allows(pattern, image)


@pytest.mark.parametrize(
    "text",
    [
        "Busybox",
        "büsybox",
        "ghcr.io/org/аpp",
        "busybox ",
        "busybox\n",
        "ghcr.io/../x",
        "ghcr.io//x",
        "a/b:t:u",
        "x@sha1",
    ],
)
def test_tricks_are_no_references(text: str) -> None:
    with pytest.raises(ValueError, match="an image is"):
        parse_image(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("alpine@foo:" + "0" * 32, "a digest by 'foo'; known are sha256, sha384, sha512"),
        ("alpine@SHA256:" + "0" * 64, "a digest by 'SHA256'"),
        ("alpine@sha256:" + "0" * 63, "of 63 hexadecimal digits; it must have 64"),
        ("alpine@sha512:" + "0" * 64, "of 64 hexadecimal digits; it must have 128"),
        ("alpine:3@sha256:" + "A" * 64, "with capital letters"),
        ("a" * 64, "is an image's id"),
        ("org/" + "a" * 252, "has a name of 256 characters; at most 255"),
    ],
)
def test_what_no_registry_and_no_runtime_takes_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_image(text)


def test_digests_of_the_other_algorithms_are_read() -> None:
    for algorithm, length in (("sha384", 96), ("sha512", 128)):
        assert parse_image(f"alpine@{algorithm}:{'0a' * (length // 2)}").digest
    for text in ("a" * 64 + ":1", "org/" + "a" * 64, "a" * 63, "f" * 65, "org/" + "a" * 251):
        assert parse_image(text)


@pytest.mark.parametrize(
    "text", ["", "a//b", "/a", "a/", "x@", "x:", "ä", "a b", "https://x/y", "x:1:2", "a/B", "x?", "[ab]/x", "a/../b "]
)
def test_what_is_no_pattern_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="a pattern is"):
        parse_pattern(text)


part = st.from_regex(r"[a-z0-9]{1,6}", fullmatch=True)
host = st.one_of(
    st.builds(lambda a, b: f"{a}.{b}", part, st.sampled_from(["io", "example", "team.example", "Example"])),
    st.just("docker.io"),
    st.builds(lambda a, port: f"{a}.example:{port}", part, st.integers(1, 65535)),
    st.just("localhost"),
)
references = st.builds(
    lambda h, parts, tag, digest: "/".join([*h, *parts]) + tag + digest,
    st.lists(host, max_size=1),
    st.lists(st.one_of(part, st.sampled_from(["team", "library", "app"])), min_size=1, max_size=3),
    st.sampled_from(["", ":1", ":latest", ":1.36-a_b"]),
    st.sampled_from(["", "@" + DIGEST]),
)


@given(image=references, inside=st.sampled_from(["team.example", "docker.io/team", "localhost:5000/app", "x.io/a/b"]))
def test_nothing_outside_a_folder_passes(image: str, inside: str) -> None:
    parsed = parse_image(image)
    assert allows(f"{inside}/**", image) == f"{parsed.host}/{parsed.path}".startswith(f"{inside}/")


@given(image=references)
def test_a_reference_is_its_own_pattern_and_a_full_one_parses_to_itself(image: str) -> None:
    parsed = parse_image(image)
    assert parse_image(str(parsed)) == parsed
    assert allows(str(parsed), image)
    assert allows("**", image)
    assert not allows(f"{parsed.host}/{parsed.path}x", image)


@given(text=st.text(max_size=40), pattern=st.sampled_from(["team.example/**", "busybox", "ghcr.io/org/*:1"]))
def test_any_text_is_refused_or_inside(text: str, pattern: str) -> None:
    try:
        image = parse_image(text)
    except ValueError:
        return
    if parse_pattern(pattern).matches(image):
        assert text.isascii()
        assert str(image).startswith(("team.example/", "docker.io/library/busybox", "ghcr.io/org/"))
