"""Who is asked for the images of a registry, and in which order: its mirrors, then it.

A name keeps its host: what came from a mirror of registry.k8s.io is an image of registry.k8s.io.  An image that a name
means by digest cannot be another at a mirror; for a tag the mirror is believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

#: The key for registries that have no entry of their own.
EVERY_HOST = "*"


@dataclass(frozen=True, slots=True)
class Mirrors:
    """Base URLs, http or https, asked in order for what a registry has; the registry itself last, if *fall_back*."""

    urls: tuple[str, ...]
    fall_back: bool = True


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A base URL, without a slash at its end, and whether it stands in for somebody else."""

    url: str
    is_mirror: bool


class Routes:
    """The mirrors of all registries, by host ("docker.io", "registry.lan:5000", or ``EVERY_HOST``)."""

    def __init__(self, mirrors: Mapping[str, Mirrors]) -> None:
        self._mirrors = dict(mirrors)

    def to(self, host: str, upstream: str) -> list[Endpoint]:
        """Who is asked for the images of *host*, whose own base URL is *upstream*; at least one."""
        known = self._mirrors.get(host) or self._mirrors.get(EVERY_HOST)
        if known is None:
            return [Endpoint(upstream, is_mirror=False)]
        found = [Endpoint(url.rstrip("/"), is_mirror=True) for url in known.urls]
        return found if found and not known.fall_back else [*found, Endpoint(upstream, is_mirror=False)]

    def plain_hosts(self) -> list[str]:
        """Hosts that may be spoken to over HTTP, since a mirror's URL says so."""
        urls = [url for mirrors in self._mirrors.values() for url in mirrors.urls]
        return [urlsplit(url).netloc for url in urls if url.startswith("http://")]
