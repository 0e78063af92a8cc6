"""CNI configuration lists (CNI specification 1.1, sections 1 and 3): which network a directory configures, as data.

The first file of the directory counts, in the order of the names: a list (.conflist), or one plugin alone (.conf, .json).
What each plugin reads on its standard input is made here too.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from runtime.errors import InvalidArgument

#: Oldest first.  Before 0.3.0 a result had other fields.
VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
SUFFIXES = (".conflist", ".conf", ".json")
SIZE_LIMIT_BYTES = 1 << 20

#: "Must start with an alphanumeric character, optionally followed by ... underscore, dot, or hyphen."
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_TYPE = re.compile(r"[A-Za-z0-9_.-]+")
#: What the runtime says, and no file.
_RESERVED = ("runtimeConfig", "prevResult")


@dataclass(frozen=True, slots=True)
class PluginConfig:
    """One plugin of a list: the program's name, what it wants to be told of a pod, and its own settings."""

    type: str
    capabilities: frozenset[str]
    settings: Mapping[str, Any]

    def document(self, network: Conflist, *, told: Mapping[str, Any], result: object = None, **added: object) -> bytes:
        """What the plugin reads: its settings, of *told* what it is capable of, and the result of the one before it."""
        document: dict[str, Any] = {**self.settings, "cniVersion": network.version, "name": network.name}
        wanted = {name: value for name, value in told.items() if name in self.capabilities}
        if wanted:
            document["runtimeConfig"] = wanted
        if result is not None:
            document["prevResult"] = result
        return json.dumps(document | added).encode()


@dataclass(frozen=True, slots=True)
class Conflist:
    """A network: its plugins in the order of ADD; *text* is the list as it was read."""

    name: str
    version: str
    plugins: tuple[PluginConfig, ...]
    can_check: bool
    can_collect: bool
    text: str

    @property
    def capabilities(self) -> frozenset[str]:
        """What any of the plugins wants to be told."""
        return frozenset().union(*(plugin.capabilities for plugin in self.plugins))

    @property
    def results_are_told(self) -> bool:
        """Whether plugins are told again at DEL and CHECK what ADD came to."""
        return self._is_since("0.4.0")

    def knows(self, command: str) -> bool:
        """Whether *command* (CHECK, GC or STATUS) is in the list's version of the specification, and not switched off."""
        since, is_on = {"CHECK": ("0.4.0", self.can_check), "GC": ("1.1.0", self.can_collect), "STATUS": ("1.1.0", True)}[command]
        return is_on and self._is_since(since)

    def _is_since(self, version: str) -> bool:
        return VERSIONS.index(self.version) >= VERSIONS.index(version)


def find(directory: Path) -> Path | None:
    """The file of *directory* that counts; None when there is none, or no such directory.  Raises OSError."""
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(SUFFIXES) and not name.startswith("."))
    except FileNotFoundError:
        return None
    return directory / names[0] if names else None


def load(path: Path) -> Conflist:
    """The list in the file at *path*, with plugins that were put beside it: 0.1 ms, so that it need not be remembered.

    Raises InvalidArgument, naming file and key; OSError when it cannot be read.
    """
    with _named(path):
        document = _parsed(_read(path))
        if path.suffix != ".conflist":
            return _build(_alone(document))
        added = [] if _flag(document, "loadOnlyInlinedPlugins") else _added(path.with_name(_name(document)))
    further = []
    for file in added:
        with _named(file):
            further.append(_parsed(_read(file)))
    with _named(path):
        inlined = document.get("plugins", [])
        if further and isinstance(inlined, list):
            document["plugins"] = [*inlined, *further]
        return _build(document)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except InvalidArgument as error:
        raise InvalidArgument(f"{path}: {error}") from None


def parse(text: str, *, is_list: bool = True) -> Conflist:
    """The list in *text*; unless it *is_list*, one of the one plugin there.  Raises InvalidArgument, naming the key."""
    document = _parsed(text)
    return _build(document if is_list else _alone(document))


def _build(document: Mapping[str, Any]) -> Conflist:
    name, version = _name(document), _version(document)
    entries = document.get("plugins")
    if not isinstance(entries, list) or not entries:
        raise InvalidArgument("plugins: must be a list of one plugin or more")
    return Conflist(
        name=name,
        version=version,
        plugins=tuple(_plugin(entry, f"plugins[{index}]") for index, entry in enumerate(entries)),
        can_check=not _flag(document, "disableCheck"),
        can_collect=not _flag(document, "disableGC"),
        text=json.dumps(document),
    )


def _alone(document: Mapping[str, Any]) -> dict[str, Any]:
    """The list of one plugin, that has the list's keys too."""
    return {key: document[key] for key in ("cniVersion", "name") if key in document} | {"plugins": [document]}


def _added(directory: Path) -> list[Path]:
    """The plugins that were put beside a list, in a directory of its name (since 1.1); by name, the list's own before them."""
    try:
        return sorted(directory / name for name in os.listdir(directory) if name.endswith(".conf"))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read(path: Path) -> str:
    with open(path, "rb") as file:
        content = file.read(SIZE_LIMIT_BYTES + 1)
    if len(content) > SIZE_LIMIT_BYTES:
        raise InvalidArgument(f"larger than {SIZE_LIMIT_BYTES} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"not UTF-8: {error}") from None


def _parsed(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise InvalidArgument("not a CNI configuration: nested too deeply") from None
    except ValueError as error:
        raise InvalidArgument(f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidArgument("must be a JSON object")
    return document


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(digits: str) -> float:
    """What is too large for a number would be written as Infinity, which no plugin reads."""
    number = float(digits)
    return number if math.isfinite(number) else _no_constant(digits)


def _name(document: Mapping[str, Any]) -> str:
    name = document.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidArgument(f"name: {name!r} must be letters, digits, '_', '.', '-', the first a letter or digit")
    return name


def _version(document: Mapping[str, Any]) -> str:
    """The newest that the list allows (``cniVersions``, since 1.1) and that we know."""
    said = document.get("cniVersion")
    several = document.get("cniVersions", [])
    if not isinstance(several, list) or not all(isinstance(version, str) for version in several):
        raise InvalidArgument("cniVersions: must be a list of versions")
    allowed = [*several, *([] if said is None else [said])]
    known = [version for version in VERSIONS if version in allowed]
    if not known:
        raise InvalidArgument(f"cniVersion: {_words(allowed)} is none of those that kernelet knows: {_words(VERSIONS)}")
    return known[-1]


def _words(versions: Iterable[object]) -> str:
    return ", ".join(map(str, versions)) or "nothing"


def _plugin(entry: object, where: str) -> PluginConfig:
    if not isinstance(entry, dict):
        raise InvalidArgument(f"{where}: must be a JSON object")
    kind = entry.get("type")
    if not isinstance(kind, str) or not _TYPE.fullmatch(kind) or kind in (".", ".."):
        raise InvalidArgument(f"{where}.type: {kind!r} must be the name of a program, without a path")
    reserved = [key for key in entry if key in _RESERVED or key.startswith("cni.dev/")]
    if reserved:
        raise InvalidArgument(f"{where}.{reserved[0]}: is what a runtime tells a plugin, and not for a file")
    capabilities = entry.get("capabilities", {})
    if not isinstance(capabilities, dict) or not all(isinstance(wanted, bool) for wanted in capabilities.values()):
        raise InvalidArgument(f"{where}.capabilities: must say true or false by the name of each")
    settings = {key: value for key, value in entry.items() if key != "capabilities"}
    return PluginConfig(kind, frozenset(name for name, wanted in capabilities.items() if wanted), settings)


def _flag(document: Mapping[str, Any], key: str) -> bool:
    """A boolean; "true" and "false" as libcni takes them too."""
    value = document.get(key, False)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise InvalidArgument(f"{key}: {value!r} is not true or false")
    return value
