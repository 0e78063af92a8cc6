"""config.json of every kind, up to a real container: never a crash, never anything left behind, always the field's name.

KERNELET_FUZZ_EXAMPLES=5000 makes it long; without, it takes less than a minute.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from kernel import mount
from runtime.errors import InvalidSpec
from runtime.paths import Paths
from runtime.spec import load
from tests.safety.bundle import Bundle
from tests.safety.documents import Json, Place, broken, documents, mutations, put, skeleton
from tests.safety.engine import Refused
from tests.safety.oci import Oci
from tests.support import cgroup, leaks
from tests.support.requires import requires

pytestmark = [requires("root", "cgroup2", "busybox"), pytest.mark.timeout(7200)]

EXAMPLES = int(os.environ.get("KERNELET_FUZZ_EXAMPLES", "150"))
SLOW = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
)


@pytest.fixture
def arena(paths: Paths) -> Iterator[Bundle]:
    """A bundle on a file system of its own: what changes that one changes nothing of the node's."""
    place = paths.run_dir / "arena"
    place.mkdir()
    with mount.new_filesystem("tmpfs", [("size", "64m")]) as memory:
        mount.attach(memory, place)
    bundle = Bundle(place / "bundle")
    (bundle.directory / "data").mkdir()
    (bundle.directory / "file").touch()
    bundle.link("link", "/etc")
    bundle.link("loop", "/loop")
    above = cgroup.ROOT / "fuzz"  # of /fuzz/x: what is made above a container's own stays, as with runc
    above.mkdir()
    yield bundle
    above.rmdir()
    mount.unmount(place)


#: What else tells of a field: another root has other programs.
ALSO = {"root": ["/bin/true"]}


def names(place: Place, value: Json, message: str) -> bool:
    """Whether *message* tells where the fault is: by the field's name, that of what it is in, or what was given."""
    words = [str(part) for part in place if part not in ("process", "linux")] or [str(place[-1])]
    words += ALSO.get(str(place[0]), [])
    if place[-1] == "terminal":
        words.append("tty")
    given = [str(value)] if not isinstance(value, (dict, list)) else [str(each) for each in _leaves(value)]
    told = message.lower()
    return any(word.lower() in told for word in words) or any(word and word[:30].lower() in told for word in given)


def _leaves(value: Json) -> Iterator[Json]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield value


def live(oci: Oci, bundle: Bundle) -> str:
    """A whole life of the container that is written there; why there was none, else nothing."""
    before = leaks.take()
    try:
        try:
            with oci.create_written(bundle) as container:
                container.start()
                container.finish()
        except Refused as refusal:
            assert str(refusal).strip()
            return str(refusal)
        return ""
    finally:
        leaks.settle(before)
        assert oci.names() == []


@SLOW
@given(document=documents())
def test_no_document_makes_it_crash_or_leave_anything(
    oci: Oci, arena: Bundle, document: tuple[Json, list[tuple[Place, Json]]]
) -> None:
    """P16: several wild values at once, up to start and delete."""
    (arena.directory / "config.json").write_text(json.dumps(document[0]))
    event("refused" if live(oci, arena) else "ran")


@SLOW
@given(mutation=mutations())
def test_whatever_is_wrong_is_named(oci: Oci, arena: Bundle, mutation: tuple[Place, Json]) -> None:
    """P16: one wild value: who reads the refusal knows which."""
    from tests.safety.documents import keep_the_node

    document = skeleton()
    put(document, *mutation)
    (arena.directory / "config.json").write_text(json.dumps(keep_the_node(document)))
    message = live(oci, arena)
    event("refused" if message else "ran")
    assert not message or names(*mutation, message), (message, mutation)


@settings(max_examples=max(300, EXAMPLES), deadline=None)
@given(st.binary(max_size=300) | broken(json.dumps(skeleton()).encode()))
def test_broken_bytes_are_no_document(content: bytes) -> None:
    """P16: a document is read whole, or refused; nothing else comes out of the reader."""
    try:
        load.load(content)
    except InvalidSpec as error:
        assert str(error)


def test_the_skeleton_runs(oci: Oci, arena: Bundle) -> None:
    """P16: what the wild ones are made of is a container that runs: else all of them would be refused for one reason."""
    (arena.directory / "config.json").write_text(json.dumps(skeleton()))
    assert live(oci, arena) == ""
    assert Path(arena.directory / "data").is_dir()
