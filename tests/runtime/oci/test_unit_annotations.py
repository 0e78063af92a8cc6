"""Annotations as properties of a scope: what podman writes comes out, and nothing that would make the scope another's."""

from __future__ import annotations

import pytest

from runtime.cgroups.message import Variant, pack
from runtime.errors import InvalidSpec
from runtime.oci.unit_annotations import PREFIX, properties_of


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("TimeoutStopUSec", "uint64 10000000", ("TimeoutStopUSec", Variant("t", 10_000_000))),
        ("KillSignal", "37", ("KillSignal", Variant("i", 37))),
        ("CollectOn", "'inactive-or-failed'", ("CollectOn", Variant("s", "inactive-or-failed"))),
        ("Description", '"a pod"', ("Description", Variant("s", "a pod"))),
        ("SendSIGHUP", "true", ("SendSIGHUP", Variant("b", True))),
        ("RuntimeMaxSec", "uint64 5", ("RuntimeMaxUSec", Variant("t", 5_000_000))),
    ],
)
def test_a_property(name: str, text: str, found: tuple[str, Variant]) -> None:
    assert properties_of({f"{PREFIX}{name}": text, "other": "x"}) == [found]
    assert pack(1, 1, "a(sv)", [[found]], path="/")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *((name, "'x'") for name in ("PIDs", "Slice", "Delegate", "", "ab", "A B", "Exec/Stop", "Ä" * 3)),
        *(
            ("Weight", text)
            for text in ("", "'", "uint64 -1", "uint64 99999999999999999999", "4294967296", "['a']", "float 1", "0x5")
        ),
    ],
)
def test_what_is_none_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(InvalidSpec, match=r"annotations: org\.systemd\.property\."):
        properties_of({f"{PREFIX}{name}": text})
