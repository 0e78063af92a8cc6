from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import InvalidReference
from runtime.image.reference import is_digest, parse_reference, require_digest

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("user/app", "docker.io/user/app:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("registry.k8s.io/e2e-test-images/busybox:1.29-2", "registry.k8s.io/e2e-test-images/busybox:1.29-2"),
        ("127.0.0.1:5000/a/b/c:v1", "127.0.0.1:5000/a/b/c:v1"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}"),
        (f"busybox:1@{DIGEST}", f"docker.io/library/busybox:1@{DIGEST}"),
        ("a__b/c--d/e.f", "docker.io/a__b/c--d/e.f:latest"),
    ],
)
def test_defaults_are_docker_s(text: str, canonical: str) -> None:
    assert str(parse_reference(text)) == canonical


def test_a_digest_decides_over_the_tag_beside_it() -> None:
    reference = parse_reference(f"busybox:1@{DIGEST}")
    assert reference.target == DIGEST
    assert reference.tag == "1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ":",
        "@",
        "/",
        "a/",
        "/a",
        "a//b",
        "a:",
        "a:-x",
        "a:" + "t" * 129,
        "UPPER",
        "docker.io/Upper",
        "a b",
        "a\n",
        "a:1\n",
        "a@sha256:123",
        "a@" + DIGEST.upper(),
        "a@sha512:" + "0" * 128,
        f"a@{DIGEST}x",
        "../a",
        "a/../b",
        "0" * 64,
        "a" * 260,
        "host:port/a",
        "-host/a:1",
        "a_.b",
        "ä",
    ],
)
def test_what_docker_refuses_is_refused(text: str) -> None:
    with pytest.raises(InvalidReference):
        parse_reference(text)


def test_the_message_names_the_reference_and_the_reason() -> None:
    with pytest.raises(InvalidReference, match=r"image reference 'Busybox': 'Busybox' is no repository name; .* lower case"):
        parse_reference("Busybox")


@given(st.text())
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidReference:
        return
    assert parse_reference(str(reference)) == reference


_component = st.from_regex(r"[a-z0-9]{1,8}([._-][a-z0-9]{1,8})?", fullmatch=True)


@given(
    domain=st.sampled_from(["docker.io", "localhost", "example.com:5000", "[::1]:5000"]),
    path=st.lists(_component, min_size=2, max_size=4).map("/".join),
    tag=st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True),
    digest=st.none() | st.just(DIGEST),
)
def test_a_canonical_name_means_itself(domain: str, path: str, tag: str | None, digest: str | None) -> None:
    text = f"{domain}/{path}" + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
    reference = parse_reference(text)
    assert (reference.domain, reference.path, reference.digest) == (domain, path, digest)
    assert reference.tag == (tag or (None if digest else "latest"))


@pytest.mark.parametrize(
    "text", ["sha256:" + "0" * 63, "sha256:" + "A" * 64, "sha256:../../etc/passwd", "md5:" + "0" * 32, "0" * 64, ""]
)
def test_only_a_verifiable_digest_is_one(text: str) -> None:
    assert not is_digest(text)
    with pytest.raises(InvalidReference):
        require_digest(text, "test")
