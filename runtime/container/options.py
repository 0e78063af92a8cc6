"""Mount options of the runtime spec, sorted by what the kernel does with each.

The words that mount(8) knows become attributes of one mount (``MOUNT_ATTR_*``, the "r" family of all mounts below it
too), flags of the file system, a propagation, or a wish of the runtime's own; what is none of these is for the
file system, as the spec says.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

_ADD = {
    "ro": "MOUNT_ATTR_RDONLY",
    "nosuid": "MOUNT_ATTR_NOSUID",
    "nodev": "MOUNT_ATTR_NODEV",
    "noexec": "MOUNT_ATTR_NOEXEC",
    "nodiratime": "MOUNT_ATTR_NODIRATIME",
    "nosymfollow": "MOUNT_ATTR_NOSYMFOLLOW",
}
_CLEAR = {
    "rw": "MOUNT_ATTR_RDONLY",
    "suid": "MOUNT_ATTR_NOSUID",
    "dev": "MOUNT_ATTR_NODEV",
    "exec": "MOUNT_ATTR_NOEXEC",
    "diratime": "MOUNT_ATTR_NODIRATIME",
    "symfollow": "MOUNT_ATTR_NOSYMFOLLOW",
}
#: Three values of one attribute, so that the last word counts; the kernel's own default is relatime.
_TIMES = {"noatime": "MOUNT_ATTR_NOATIME", "strictatime": "MOUNT_ATTR_STRICTATIME", "relatime": "MOUNT_ATTR_RELATIME"}
_NO_TIMES = {"atime": "MOUNT_ATTR_NOATIME", "nostrictatime": "MOUNT_ATTR_STRICTATIME", "norelatime": "MOUNT_ATTR_RELATIME"}
_PROPAGATION = ("private", "slave", "shared", "unbindable")
#: Flags of the file system that fsconfig(2) knows by these words, and the words that take them back.
_SUPERBLOCK = {"sync": "MS_SYNCHRONOUS", "dirsync": "MS_DIRSYNC", "lazytime": "MS_LAZYTIME", "mand": "MS_MANDLOCK"}
_NOT_SUPERBLOCK = {"async": "sync", "nolazytime": "lazytime", "nomand": "mand"}
#: Flags that mount(2) alone takes.
_LEGACY = {"iversion": "MS_I_VERSION", "silent": "MS_SILENT"}
_NOT_LEGACY = {"noiversion": "iversion", "loud": "silent"}
_FLAGS = frozenset((*_ADD, *_CLEAR, *_TIMES, *_NO_TIMES, *_SUPERBLOCK, *_NOT_SUPERBLOCK, *_LEGACY, *_NOT_LEGACY))
_LASTING = tuple(name for name in _ADD.values() if name != "MOUNT_ATTR_NODIRATIME")
_WISHES = ("defaults", "bind", "rbind", "remount", "tmpcopyup", "idmap", "ridmap")


@dataclass(frozen=True, slots=True)
class Options:
    """What a mount's options ask for; *data* is for the file system itself, flags with the value None."""

    add: tuple[str, ...]
    clear: tuple[str, ...]
    recursive_add: tuple[str, ...]
    recursive_clear: tuple[str, ...]
    propagation: tuple[tuple[str, bool], ...]
    """One after the other: its name, and whether it is for all mounts below too."""
    is_bind: bool
    is_recursive: bool
    is_remount: bool
    copies_up: bool
    id_mapping: str
    """The last of "idmap" and "ridmap", or nothing."""
    says_flags: bool
    """Whether any word is one of mount(8)'s flags of one mount, set or taken back."""
    superblock: tuple[str, ...]
    legacy: tuple[str, ...]
    data: tuple[tuple[str, str | None], ...]

    @property
    def exactly(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What to add and what to clear so that a mount has these flags and no others, as "mount --bind -o" has it.

        Without any such word it keeps what it has; and times of access, if nothing is said of them (runc does the same).
        """
        if not self.says_flags:
            return (), ()
        clear = [name for name in _LASTING if name not in self.add]
        if any(name in self.add for name in (*_TIMES.values(), "MOUNT_ATTR_NODIRATIME")):
            clear += [name for name in ("MOUNT_ATTR__ATIME", "MOUNT_ATTR_NODIRATIME") if name not in self.add]
        return self.add, tuple(clear)

    @property
    def mount_flags(self) -> tuple[str, ...]:
        """All of it as the flags of mount(2)."""
        attributes = (*self.add, *self.recursive_add)
        return (
            *(name.replace("MOUNT_ATTR_", "MS_") for name in dict.fromkeys(attributes)),
            *(_SUPERBLOCK[name] for name in self.superblock),
            *(_LEGACY[name] for name in self.legacy),
        )


def known_options() -> list[str]:
    """Every word that is not left to the file system."""
    of_one_mount = (*_ADD, *_CLEAR, *_TIMES, *_NO_TIMES, *_PROPAGATION)
    alone = (*_SUPERBLOCK, *_NOT_SUPERBLOCK, *_LEGACY, *_NOT_LEGACY, *_WISHES)
    return sorted((*of_one_mount, *(f"r{name}" for name in of_one_mount), *alone))


def parse_options(options: list[str]) -> Options:
    """Sort *options*; of two that contradict each other the last one counts."""
    return _parse(tuple(options))


@lru_cache(256)
def _parse(options: tuple[str, ...]) -> Options:
    one, all_below = _Attributes(), _Attributes()
    propagation: list[tuple[str, bool]] = []
    flags: dict[str, None] = {}
    data: list[tuple[str, str | None]] = []
    for option in options:
        below = option.removeprefix("r")
        if one.take(option) or (below != option and all_below.take(below, is_recursive=True)):
            continue
        if option in _PROPAGATION or (below != option and below in _PROPAGATION):
            propagation.append((option, False) if option in _PROPAGATION else (below, True))
        elif option in _SUPERBLOCK or option in _LEGACY:
            flags[option] = None
        elif option in _NOT_SUPERBLOCK or option in _NOT_LEGACY:
            flags.pop(_NOT_SUPERBLOCK.get(option) or _NOT_LEGACY[option], None)
        elif option and option not in _WISHES:
            key, separator, value = option.partition("=")
            data.append((key, value if separator else None))
    return Options(
        add=tuple(one.add),
        clear=tuple(one.clear),
        recursive_add=tuple(all_below.add),
        recursive_clear=tuple(all_below.clear),
        propagation=tuple(propagation),
        is_bind="bind" in options or "rbind" in options,
        is_recursive="rbind" in options,
        is_remount="remount" in options,
        copies_up="tmpcopyup" in options,
        id_mapping=next((option for option in reversed(options) if option in ("idmap", "ridmap")), ""),
        says_flags=any(option in _FLAGS for option in options),
        superblock=tuple(name for name in flags if name in _SUPERBLOCK),
        legacy=tuple(name for name in flags if name in _LEGACY),
        data=tuple(data),
    )


class _Attributes:
    """What to add to a mount's attributes and what to take away, in the order of the words."""

    def __init__(self) -> None:
        self.add: dict[str, None] = {}
        self.clear: dict[str, None] = {}

    def take(self, option: str, *, is_recursive: bool = False) -> bool:
        """Whether *option* is such a word; it is taken then."""
        if option in _ADD:
            self._set(_ADD[option])
        elif option in _CLEAR:
            self.add.pop(_CLEAR[option], None)
            self.clear[_CLEAR[option]] = None
        elif option in _TIMES:
            self._set_time(_TIMES[option])
        elif option in _NO_TIMES:
            self._unset_time(_NO_TIMES[option], is_recursive=is_recursive)
        else:
            return False
        return True

    def _set(self, name: str) -> None:
        self.clear.pop(name, None)
        self.add[name] = None

    def _set_time(self, name: str) -> None:
        for other in _TIMES.values():
            self.add.pop(other, None)
        self._set(name)
        self.clear["MOUNT_ATTR__ATIME"] = None  # mount_setattr(2) wants the old value cleared by this name

    def _unset_time(self, name: str, *, is_recursive: bool) -> None:
        """Recursively it is an order, for the kernel's default; for one mount it takes back what was said (mount(8))."""
        if name in self.add:
            del self.add[name]
            self.clear.pop("MOUNT_ATTR__ATIME", None)
        if is_recursive and not any(time in self.add for time in _TIMES.values()):
            self._set_time("MOUNT_ATTR_RELATIME")
