from __future__ import annotations

import os

import pytest

from runtime.errors import ImagePullFailed
from runtime.image.manifest import OCI_MANIFEST, Descriptor, Index, Platform
from runtime.image.platform import AMD64_LEVELS, ARCHITECTURES, amd64_level, choose, host_platform, runs_on

AMD64 = Platform(os="linux", architecture="amd64", variant="v3")


def entry(number: int, platform: Platform | None, **annotations: str) -> Descriptor:
    digest = f"sha256:{number:064x}"
    return Descriptor(media_type=OCI_MANIFEST, digest=digest, size=1, platform=platform, annotations=annotations or None)


def chosen(*entries: Descriptor) -> int:
    return int(choose(Index(schema_version=2, manifests=list(entries)), AMD64).digest.removeprefix("sha256:"), 16)


def linux(architecture: str, variant: str | None = None) -> Platform:
    return Platform(os="linux", architecture=architecture, variant=variant)


def test_the_first_that_runs_here_is_taken() -> None:
    assert (
        chosen(entry(1, linux("arm64")), entry(2, linux("amd64", "v4")), entry(3, linux("amd64", "v2")), entry(4, linux("amd64")))
        == 3
    )


def test_attestations_are_no_images() -> None:
    unknown = Platform(os="unknown", architecture="unknown")
    assert (
        chosen(
            entry(1, unknown), entry(2, None, **{"vnd.docker.reference.type": "attestation-manifest"}), entry(3, linux("amd64"))
        )
        == 3
    )


def test_an_entry_without_platform_is_the_last_resort() -> None:
    assert chosen(entry(1, None), entry(2, linux("amd64"))) == 2
    assert chosen(entry(1, None), entry(2, linux("s390x"))) == 1


def test_when_nothing_fits_the_message_says_what_is_offered() -> None:
    with pytest.raises(ImagePullFailed, match=r"no image for linux/amd64/v3 .* offers linux/arm64, windows/amd64"):
        chosen(entry(1, linux("arm64")), entry(2, Platform(os="windows", architecture="amd64")))
    with pytest.raises(ImagePullFailed, match="offers nothing"):
        choose(Index(schema_version=2, manifests=None), AMD64)


@pytest.mark.parametrize(
    ("offered", "host", "runs"),
    [
        (linux("arm", "v6"), linux("arm", "v7"), True),
        (linux("arm", "v7"), linux("arm", "v6"), False),
        (linux("arm64"), linux("arm64", "v8"), True),
        (linux("amd64", "strange"), AMD64, True),
        (Platform(os="linux", architecture="amd64", os_features=["x"]), AMD64, False),
    ],
)
def test_variants_are_ordered(offered: Platform, host: Platform, runs: bool) -> None:
    assert runs_on(offered, host) is runs


def test_amd64_levels_build_on_each_other() -> None:
    assert amd64_level([]) == 1
    assert amd64_level(AMD64_LEVELS[1]) == 1
    assert amd64_level(AMD64_LEVELS[0] | AMD64_LEVELS[1]) == 3
    assert amd64_level(frozenset().union(*AMD64_LEVELS)) == 4


def test_this_machine_has_a_platform() -> None:
    assert host_platform().os == "linux"
    assert host_platform().architecture == ARCHITECTURES[os.uname().machine][0]
