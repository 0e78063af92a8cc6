"""WWW-Authenticate: what a registry wants to see (RFC 9110 section 11.6.1).  Bytes and rules, no I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME = re.compile(rf"[\s,]*({_TOKEN})(?=\s|,|$)\s*")
_PARAMETER = re.compile(rf"[\s,]*({_TOKEN})\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"|({_TOKEN}))\s*(?=,|$)")
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*\s*(?=,|$)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One scheme that would do, lower case, with its parameters by lower-case name."""

    scheme: str
    parameters: dict[str, str]


def parse_challenges(header: str) -> list[Challenge]:
    """All challenges of *header* in order.  What cannot be understood ends the list; it never raises."""
    challenges: list[Challenge] = []
    at = 0
    while (scheme := _SCHEME.match(header, at)) is not None:
        at = scheme.end()
        parameters: dict[str, str] = {}
        token68 = _TOKEN68.match(header, at)
        if token68 is not None and _PARAMETER.match(header, at) is None and _SCHEME.match(header, at) is None:
            at = token68.end()
        while (found := _PARAMETER.match(header, at)) is not None:
            quoted, plain = found[2], found[3]
            value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            parameters.setdefault(found[1].lower(), value)
            at = found.end()
        challenges.append(Challenge(scheme[1].lower(), parameters))
    return challenges
