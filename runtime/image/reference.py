"""Image references as people write them, and as we keep them.

The rules are Docker's, because Kubernetes' are: no registry means ``docker.io``, a bare name there
means ``library/name``, and no tag means ``latest`` unless a digest says exactly which image is meant.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from runtime.errors import InvalidReference

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"

#: A registry refuses longer repository names; Docker's reference package counts the domain too.
NAME_LIMIT = 255

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?", re.ASCII)
_PATH = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*", re.ASCII)
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_HEX = re.compile(r"[a-f0-9]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reference:
    """An image by name.  At least one of *tag* and *digest* is given; with both, the digest decides."""

    domain: str
    path: str
    tag: str | None
    digest: str | None

    @property
    def name(self) -> str:
        """The repository: domain and path."""
        return f"{self.domain}/{self.path}"

    @property
    def target(self) -> str:
        """What a registry is asked for: the digest when there is one, else the tag."""
        return self.digest or self.tag or DEFAULT_TAG

    def at(self, digest: str) -> str:
        """The canonical name of exactly *digest* in this repository."""
        return f"{self.name}@{digest}"

    def __str__(self) -> str:
        tag = "" if self.tag is None else f":{self.tag}"
        return self.name + tag + ("" if self.digest is None else f"@{self.digest}")


def parse_reference(text: str) -> Reference:
    """The reference that *text* means, defaults filled in; raises InvalidReference."""
    rest, at, digest = text.partition("@")
    if at:
        require_digest(digest, f"image reference {text!r}")
    name, tag = _split_tag(rest)
    if tag is not None and not _TAG.fullmatch(tag):
        raise _refused(text, f"{tag!r} is no tag: letters, digits, '_', '.' and '-', at most 128, not starting with '.' or '-'")
    domain, path = _split_domain(name)
    if not _DOMAIN.fullmatch(domain):
        raise _refused(text, f"{domain!r} is no registry host")
    if not _PATH.fullmatch(path):
        shown = path if path in name else path.removeprefix("library/")
        hint = "; repository names are lower case" if path != path.lower() else ""
        raise _refused(text, f"{shown!r} is no repository name{hint}" if shown else "the repository name is missing")
    if not at and tag is None and _HEX.fullmatch(name):
        raise _refused(text, "64 hexadecimal digits are an image id, not a name")
    if len(domain) + 1 + len(path) > NAME_LIMIT:
        raise _refused(text, f"the name is longer than {NAME_LIMIT} characters")
    return Reference(domain, path, tag if tag is not None or at else DEFAULT_TAG, digest if at else None)


def is_digest(text: str) -> bool:
    """Whether *text* is a digest that we can verify: ``sha256:`` and 64 lower-case hexadecimal digits."""
    algorithm, colon, value = text.partition(":")
    return bool(colon) and algorithm == "sha256" and _HEX.fullmatch(value) is not None


def require_digest(text: str, where: str) -> str:
    """*text*, if it is a digest that we can verify; raises InvalidReference naming *where* it stood.

    Anything else is refused before it can become part of a path or be left unchecked (CVE-2024-3727).
    """
    if not is_digest(text):
        raise InvalidReference(f"{where}: {text[:100]!r} is no digest: want sha256: and 64 lower-case hexadecimal digits")
    return text


def _split_tag(text: str) -> tuple[str, str | None]:
    """Cut the tag off: the last colon, unless a slash follows it (then it is a port)."""
    head, colon, tail = text.rpartition(":")
    if not colon or "/" in tail or tail.endswith("]"):
        return text, None
    return head, tail


def _split_domain(name: str) -> tuple[str, str]:
    """A first component is a host when it could not be anything else: a dot, a colon, or localhost."""
    first, slash, rest = name.partition("/")
    if slash and (first == "localhost" or any(sign in first for sign in ".:[") or first != first.lower()):
        domain, path = first, rest
    else:
        domain, path = DEFAULT_DOMAIN, name
    if domain == "index.docker.io":
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = f"library/{path}"
    return domain, path


def _refused(text: str, why: str) -> InvalidReference:
    return InvalidReference(f"image reference {text[:300]!r}: {why}")
