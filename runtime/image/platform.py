"""Which entry of an index runs on this machine: the first in the list that matches (OCI image index)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from runtime.errors import ImagePullFailed
from runtime.image.manifest import Descriptor, Index, Platform

#: What uname(2) calls a machine, and what Go does.
ARCHITECTURES = {
    "x86_64": ("amd64", None),
    "aarch64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i686": ("386", None),
    "riscv64": ("riscv64", None),
    "ppc64le": ("ppc64le", None),
    "s390x": ("s390x", None),
    "loongarch64": ("loong64", None),
}

#: What each x86-64 level adds to the one below, as /proc/cpuinfo spells it (psABI, "micro-architecture levels").
AMD64_LEVELS = (
    frozenset({"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"}),
    frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"}),
    frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
)


@cache
def host_platform() -> Platform:
    """The platform of this machine, its variant included."""
    machine = os.uname().machine
    architecture, variant = ARCHITECTURES.get(machine, (machine, None))
    if architecture == "amd64":
        variant = f"v{amd64_level(_cpu_flags())}"
    return Platform(os="linux", architecture=architecture, variant=variant)


def amd64_level(flags: Iterable[str]) -> int:
    """The x86-64 level, 1 to 4, of a processor with *flags*."""
    have, level = set(flags), 1
    for needed in AMD64_LEVELS:
        if not needed <= have:
            break
        level += 1
    return level


def runs_on(offered: Platform, host: Platform) -> bool:
    """Whether an image for *offered* runs on *host*: same system and architecture, variant not above the host's."""
    if (offered.os, offered.architecture) != (host.os, host.architecture) or offered.os_features:
        return False
    wanted, present = _level(offered.variant), _level(host.variant)
    return wanted is None or present is None or wanted <= present


def choose(index: Index, host: Platform) -> Descriptor:
    """The first entry of *index* that runs on *host*; raises ImagePullFailed with what is offered instead.

    An entry that names no platform could be any, so it is taken only when no other fits.
    """
    entries = [entry for entry in index.manifests or [] if not _is_attestation(entry)]
    for entry in entries:
        if entry.platform is not None and runs_on(entry.platform, host):
            return entry
    for entry in entries:
        if entry.platform is None:
            return entry
    offered = ", ".join(sorted({str(entry.platform) for entry in entries})) or "nothing"
    raise ImagePullFailed(f"no image for {host} in the index; it offers {offered}")


def _is_attestation(entry: Descriptor) -> bool:
    """BuildKit puts provenance beside the images, for a platform that nobody has."""
    platform = entry.platform
    unknown = platform is not None and (platform.os, platform.architecture) == ("unknown", "unknown")
    return unknown or "vnd.docker.reference.type" in (entry.annotations or {})


def _level(variant: str | None) -> int | None:
    """The number of a variant such as "v7"; None when there is none to compare."""
    match = re.fullmatch(r"v([0-9]{1,3})", variant or "")
    return int(match[1]) if match else None


def _cpu_flags() -> set[str]:
    found = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return set(found[1].split()) if found else set()
