"""Import what is slow without what makes it slow: start-up is most of the time that a command takes.

msgspec and pathlib import a third of the standard library for what nothing here uses: decimal numbers and UUIDs in
JSON, file URIs, documentation of types.  While they are imported others stand in for those modules; after that the
real ones can be imported as ever.  In place of dataclasses stands ``records``, until the command's own modules are there
(``give_back``): what others need of it is more than that.
"""

from __future__ import annotations

import sys
from types import ModuleType


class _Nothing:
    """A type that no value has."""

    unknown = None


def _stand_ins() -> dict[str, ModuleType | None]:
    import urllib
    from importlib import import_module

    assert urllib  # the package that "urllib.parse" belongs to
    return {
        "datetime": import_module("_datetime"),  # all that datetime.py has when it is done
        "decimal": _module("decimal", Decimal=_Nothing),
        "msgspec._json_schema": _module("msgspec._json_schema", schema=None, schema_components=None),
        "msgspec.inspect": _module("msgspec.inspect"),
        "msgspec.msgpack": _module("msgspec.msgpack"),
        "msgspec.toml": _module("msgspec.toml"),
        "msgspec.yaml": _module("msgspec.yaml"),
        "ntpath": _module("ntpath"),  # pathlib: paths of Windows
        "typing_extensions": None,  # msgspec: typing serves as well
        "urllib.parse": _module("urllib.parse", quote_from_bytes=None),  # pathlib: as_uri()
        "uuid": _module("uuid", UUID=_Nothing, SafeUUID=_Nothing),
    }


def _module(name: str, **content: object) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(content)
    return module


def import_lean() -> None:
    """Import them; what is imported already stays as it is."""
    absent = {name: module for name, module in _stand_ins().items() if name not in sys.modules}
    sys.modules.update(absent)  # type: ignore[arg-type]  # None: not to be found
    try:
        import pathlib

        import msgspec

        assert pathlib and msgspec
    finally:
        for name in absent:
            del sys.modules[name]
    from runtime.oci import records

    sys.modules.setdefault("dataclasses", records)


def give_back() -> None:
    """Let who asks for dataclasses from now on have the real one."""
    standing_in = sys.modules.get("runtime.oci.records")
    if standing_in is not None and sys.modules.get("dataclasses") is standing_in:
        del sys.modules["dataclasses"]
