"""What stands in for slow modules does what they do, as far as anybody here goes; and does not stay in their place."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from runtime.oci import records

ROOT = Path(records.__file__).parents[2]


def make(module: ModuleType) -> tuple[Any, Any]:
    """The same two records, decorated by *module*."""

    @module.dataclass(frozen=True, slots=True)
    class Frozen:
        number: int
        names: tuple[str, ...] = ()

    @module.dataclass(slots=True)
    class Changing:
        """Documented."""

        number: int
        found: dict[int, str] = module.field(default_factory=dict)
        after: int = 0

        def __post_init__(self) -> None:
            self.after = self.number + 1

    return Frozen, Changing


@pytest.fixture(params=[records, dataclasses], ids=["ours", "theirs"])
def kinds(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return make(request.param)


def test_records_are_made_alike(kinds: tuple[Any, Any]) -> None:
    frozen, changing = kinds
    assert frozen(1).names == ()
    assert frozen(1, ("a",)).names == frozen(names=("a",), number=1).names
    first, second = changing(1), changing(2, {3: "x"})
    assert (first.found, second.found, first.after) == ({}, {3: "x"}, 2)
    first.found[1] = "y"
    assert changing(1).found == {}


def test_records_are_equal_alike(kinds: tuple[Any, Any]) -> None:
    frozen, changing = kinds
    assert frozen(1, ("a",)) == frozen(1, ("a",)) != frozen(2, ("a",))
    assert hash(frozen(1)) == hash(frozen(1))
    assert len({frozen(1), frozen(1), frozen(2)}) == 2
    assert frozen(1) != (1, ())
    with pytest.raises(TypeError, match="unhashable"):
        hash(changing(1))


def test_records_are_shown_alike(kinds: tuple[Any, Any]) -> None:
    frozen, _ = kinds
    assert repr(frozen(1, ("a",))).endswith("Frozen(number=1, names=('a',))")
    assert frozen.__match_args__ == ("number", "names")
    assert msgspec.json.encode(frozen(1, ("a",))) == b'{"number":1,"names":["a"]}'


@pytest.mark.parametrize(
    ("values", "named"), [((), {}), ((1, (), 3), {}), ((1,), {"number": 1}), ((1,), {"nosuch": 1}), ((), {"names": ()})]
)
def test_records_refuse_alike(kinds: tuple[Any, Any], values: tuple[Any, ...], named: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        kinds[0](*values, **named)


def test_a_copy_may_differ() -> None:
    ours, theirs = make(records)[0], make(dataclasses)[0]
    assert records.replace(ours(1, ("a",)), number=2) == ours(2, ("a",))
    assert dataclasses.replace(theirs(1, ("a",)), number=2) == theirs(2, ("a",))


def test_the_real_modules_can_be_imported_afterwards() -> None:
    script = f"""
import sys
sys.path += {[str(ROOT), *(path for path in sys.path if path.endswith("-packages"))]!r}
from runtime.oci.lean import give_back, import_lean
import_lean()
import dataclasses
assert dataclasses.__name__ == "runtime.oci.records"
give_back()
give_back()
import dataclasses
assert dataclasses.asdict and dataclasses.__name__ == "dataclasses"
slow = "decimal typing_extensions urllib.parse uuid textwrap ntpath".split()
assert not set(slow) & sys.modules.keys(), sys.modules.keys()
import datetime, decimal, ntpath, pathlib, urllib.parse, uuid
import msgspec
assert uuid.UUID(int=1).int == 1 and decimal.Decimal(1) == 1
assert msgspec.json.decode(b'"2026-01-01T00:00:00Z"', type=datetime.datetime).year == 2026
assert msgspec.json.decode(b'[1, {{"a": 2.5}}]') == [1, {{"a": 2.5}}]
assert pathlib.Path("/a/../b").parent.name == ".."
assert list(pathlib.Path("/proc/self").glob("stat*"))
"""
    subprocess.run([sys.executable, "-I", "-S", "-c", script], check=True)
