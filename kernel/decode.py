"""A step for people: flags by name, modes in octal, device numbers, capabilities, what is in a structure.

``Step.__str__`` prints what a program was given; this prints what the kernel will understand by it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache

from kernel._linux import lib
from kernel.argument import Argument, Flags, Words, describe_argument
from kernel.capability import CAPABILITIES, names_of
from kernel.program import Step

#: What a descriptor's number stands for, as the reader is told.
Names = Mapping[int, str]
Render = Callable[[Argument, Names], str]

_OPEN = "O_PATH O_CLOEXEC O_NOFOLLOW O_DIRECTORY O_WRONLY O_RDWR O_CREAT O_EXCL O_APPEND O_NOCTTY O_NONBLOCK O_TRUNC".split()
_RESOLVE = "RESOLVE_NO_XDEV RESOLVE_NO_MAGICLINKS RESOLVE_NO_SYMLINKS RESOLVE_BENEATH RESOLVE_IN_ROOT".split()
_ATTRIBUTES = (
    "MOUNT_ATTR_RDONLY MOUNT_ATTR_NOSUID MOUNT_ATTR_NODEV MOUNT_ATTR_NOEXEC MOUNT_ATTR_NOATIME MOUNT_ATTR_STRICTATIME "
    "MOUNT_ATTR_NODIRATIME MOUNT_ATTR_IDMAP MOUNT_ATTR_NOSYMFOLLOW"
).split()
_PROPAGATION = "MS_SHARED MS_PRIVATE MS_SLAVE MS_UNBINDABLE".split()
_TYPES = {stat.S_IFREG: "S_IFREG", stat.S_IFCHR: "S_IFCHR", stat.S_IFBLK: "S_IFBLK", stat.S_IFIFO: "S_IFIFO"}
#: Several kinds of containers' worth.
STEPS_REMEMBERED = 2048
_EVERY, _NO_LIMIT = 0xFFFFFFFF, (1 << 64) - 1
_ALL_CAPABILITIES = (1 << len(CAPABILITIES)) - 1


def decode(step: Step, names: Names | None = None) -> str:
    """*step* as one line; *names* are those of descriptors that the program knows by number alone."""
    text = f"{step.call}({', '.join(decode_arguments(step, names))})"
    return f"{step.store} = {text}" if step.store else text


def decode_arguments(step: Step, names: Names | None = None) -> Sequence[str]:
    """The arguments of *step*, each as text; of prctl(2) those that are zero to no purpose are left away."""
    return _decoded(step.call, _named(step, names) if names else (), *step.arguments)


def _named(step: Step, names: Names) -> tuple[tuple[int, str], ...]:
    """Those of *names* that *step* speaks of: by itself, or in a structure."""
    numbers = [argument for argument in step.arguments if argument in names]
    numbers += [value for argument in step.arguments if type(argument) is Words for value in argument.values if value in names]
    return tuple((number, names[number]) for number in numbers if isinstance(number, int))


@lru_cache(STEPS_REMEMBERED, typed=True)
def _decoded(call: str, names: tuple[tuple[int, str], ...], *arguments: Argument) -> tuple[str, ...]:
    """Each container's start is decoded for its record, and most steps are those of the one before: 0.2 ms in place of 2."""
    given = list(arguments)
    if call == "prctl":
        while len(given) > 2 and given[-1] == 0:
            given.pop()
    renders, known = _of_call(call, arguments), dict(names)
    return tuple((renders[index] if index < len(renders) else _plain)(argument, known) for index, argument in enumerate(given))


def _of_call(call: str, arguments: Sequence[Argument]) -> tuple[Render, ...]:
    if call == "prctl" and "PR_CAPBSET_DROP" in _flags_of(arguments, 0):
        return (_plain, _capability)
    if call == "prctl" and "PR_CAP_AMBIENT_RAISE" in _flags_of(arguments, 1):
        return (_plain, _plain, _capability)
    return _CALLS.get(call, ())


def _flags_of(arguments: Sequence[Argument], index: int) -> tuple[str, ...]:
    argument = arguments[index] if index < len(arguments) else 0
    return argument.names if isinstance(argument, Flags) else ()


def _plain(argument: Argument, _: Names) -> str:
    return describe_argument(argument)


def _descriptor(argument: Argument, names: Names) -> str:
    if isinstance(argument, int) and int(argument) in names:
        return names[int(argument)]
    return describe_argument(argument)


def _octal(argument: Argument, _: Names) -> str:
    return octal(argument) if isinstance(argument, int) else describe_argument(argument)


def _mode(argument: Argument, _: Names) -> str:
    """Type and permissions, as mknod(2) takes them."""
    if not isinstance(argument, int):
        return describe_argument(argument)
    kind = _TYPES.get(stat.S_IFMT(argument))
    permissions = octal(stat.S_IMODE(argument))
    return f"{kind}|{permissions}" if kind else permissions


def _device(argument: Argument, _: Names) -> str:
    return f"{os.major(argument)}:{os.minor(argument)}" if isinstance(argument, int) else describe_argument(argument)


def _last(argument: Argument, names: Names) -> str:
    return "every one above" if argument == _EVERY else _descriptor(argument, names)


def _id(argument: Argument, _: Names) -> str:
    return "unchanged" if argument in (-1, _EVERY) else describe_argument(argument)


def _capability(argument: Argument, _: Names) -> str:
    return names_of(1 << argument)[0] if isinstance(argument, int) else describe_argument(argument)


def _io_priority(argument: Argument, _: Names) -> str:
    """The class above, the level in the lower 13 bits (ioprio_set(2))."""
    if not isinstance(argument, int):
        return describe_argument(argument)
    kind = ("IOPRIO_CLASS_NONE", "IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE")[argument >> 13 & 3]
    return f"{kind}, level {argument & 0x1FFF}"


def _open_how(argument: Argument, _: Names) -> str:
    """struct open_how."""
    if not isinstance(argument, Words) or len(argument.values) != 3:
        return describe_argument(argument)
    flags, mode, resolve = argument.values
    parts = [f"flags={bits(flags, _OPEN)}", f"mode={octal(mode)}" if mode else "", f"resolve={bits(resolve, _RESOLVE)}"]
    return "{" + ", ".join(filter(None, parts)) + "}"


def _mount_attr(argument: Argument, names: Names) -> str:
    """struct mount_attr: what is set, what is cleared, propagation, the user namespace of an id-mapped mount."""
    if not isinstance(argument, Words) or len(argument.values) != 4:
        return describe_argument(argument)
    added, cleared, propagation, namespace = argument.values
    parts = []
    if added:
        parts.append(f"set={bits(added, _ATTRIBUTES)}")
    if cleared:
        parts.append(f"clear={bits(cleared, _ATTRIBUTES)}")
    if propagation:
        parts.append(f"propagation={bits(propagation, _PROPAGATION)}")
    if namespace:
        parts.append(f"userns={names.get(namespace, namespace)}")
    return "{" + ", ".join(parts) + "}"


def _capability_sets(argument: Argument, _: Names) -> str:
    """The two halves of three sets, as capset(2) takes them."""
    if not isinstance(argument, Words) or len(argument.values) != 6:
        return describe_argument(argument)
    low, high = argument.values[:3], argument.values[3:]
    sets = {
        title: left | right << 32 for title, left, right in zip(("effective", "permitted", "inheritable"), low, high, strict=True)
    }
    if sets["effective"] == sets["permitted"]:
        sets = {"effective=permitted": sets["effective"], "inheritable": sets["inheritable"]}
    return "{" + ", ".join(f"{title}={capability_names(mask)}" for title, mask in sets.items()) + "}"


def _limits(argument: Argument, _: Names) -> str:
    if not isinstance(argument, Words) or len(argument.values) != 2:
        return describe_argument(argument)
    soft, hard = ("unlimited" if value & _NO_LIMIT == _NO_LIMIT else str(value) for value in argument.values)
    return f"{{soft={soft}, hard={hard}}}"


def octal(number: int) -> str:
    """*number* as C and chmod(1) write it."""
    return f"0{number:o}" if number else "0"


def capability_names(mask: int) -> str:
    """The capabilities in *mask*, without CAP_, or "none" or "all"."""
    if not mask:
        return "none"
    if mask & _ALL_CAPABILITIES == _ALL_CAPABILITIES:
        return "all"
    return "|".join(name.removeprefix("CAP_") for name in names_of(mask))


def bits(value: int, names: Iterable[str]) -> str:
    """The names among *names* whose bits are in *value*, what is left as a number."""
    found = []
    for name in names:
        bit = int(getattr(lib, name))
        if bit and value & bit == bit:
            found.append(name)
            value &= ~bit
    if value:
        found.append(hex(value))
    return "|".join(found) or "0"


_CALLS: dict[str, tuple[Render, ...]] = {
    "capset": (_plain, _capability_sets),
    "clone3": (_plain, _descriptor),
    "close": (_descriptor,),
    "close_range": (_descriptor, _last),
    "dup3": (_descriptor, _descriptor),
    "fchdir": (_descriptor,),
    "fchmod": (_descriptor, _octal),
    "fchmodat": (_descriptor, _plain, _octal),
    "fchown": (_descriptor, _id, _id),
    "fchownat": (_descriptor, _plain, _id, _id),
    "fcntl": (_descriptor,),
    "fsconfig": (_descriptor, _plain, _plain, _plain, _descriptor),
    "fsmount": (_descriptor,),
    "ioctl": (_descriptor,),
    "ioprio_set": (_plain, _plain, _io_priority),
    "mkdirat": (_descriptor, _plain, _octal),
    "mknodat": (_descriptor, _plain, _mode, _device),
    "mount_setattr": (_descriptor, _plain, _plain, _mount_attr),
    "move_mount": (_descriptor, _plain, _descriptor, _plain),
    "open_tree": (_descriptor,),
    "openat": (_descriptor, _plain, _plain, _octal),
    "openat2": (_descriptor, _plain, _open_how),
    "prlimit64": (_plain, _plain, _limits),
    "read": (_descriptor,),
    "renameat2": (_descriptor, _plain, _descriptor),
    "setns": (_descriptor,),
    "setresgid": (_id, _id, _id),
    "setresuid": (_id, _id, _id),
    "symlinkat": (_plain, _descriptor),
    "umask": (_octal,),
    "unlinkat": (_descriptor,),
    "write": (_descriptor,),
}
