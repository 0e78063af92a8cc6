"""Steps that find and make things inside the root: by openat2 with the root as "/", and then by descriptor.

No path of an image's is ever looked at as a string and used later (CVE-2019-18837, CVE-2021-30465).
"""

from __future__ import annotations

import errno
import os
import stat

from kernel.program import Flags, Program, Slot, Words

#: The root itself, once it is "/".
HERE = Flags(("AT_FDCWD",))
DIRECTORY = ("O_PATH", "O_DIRECTORY", "O_CLOEXEC")
EMPTY = Flags(("MOVE_MOUNT_F_EMPTY_PATH", "MOVE_MOUNT_T_EMPTY_PATH"))
INTO = Flags(("MOVE_MOUNT_F_EMPTY_PATH",))
_IN_ROOT = ("RESOLVE_IN_ROOT", "RESOLVE_NO_MAGICLINKS")


def find(
    steps: Program, root: int | Flags, path: str, *, store: str, flags: tuple[str, ...], tolerate: tuple[int, ...] = ()
) -> Slot:
    """Open *path* with *root* as "/"."""
    how = Words(
        8,
        (Flags(flags).value(), 0, Flags(_IN_ROOT).value()),
        label="{" + "|".join(flags) + ", RESOLVE_IN_ROOT|RESOLVE_NO_MAGICLINKS}",
    )
    return steps.call(
        "openat2",
        root,
        path,
        how,
        24,
        store=store,
        tolerate=tolerate,
        why=f"find {path} inside the root and nowhere else",
        hint="a symlink in the image leads nowhere, or something else stands there",
    )


def make_directory(steps: Program, root: int, path: str) -> None:
    """Make the directory *path*, if it is not there."""
    parent, name = os.path.split(path.rstrip("/"))
    slot = find(steps, root, parent, store="parent", flags=DIRECTORY)
    steps.call("mkdirat", slot, name, 0o755, tolerate=(errno.EEXIST,), why=f"a place for what comes at {path}")


def make_file(steps: Program, root: int, path: str) -> None:
    """Make the empty file *path*, if nothing is there."""
    parent, name = os.path.split(path.rstrip("/"))
    slot = find(steps, root, parent, store="parent", flags=DIRECTORY)
    steps.call("mknodat", slot, name, stat.S_IFREG | 0o644, 0, tolerate=(errno.EEXIST,), why=f"a place for what comes at {path}")


def set_attributes(
    steps: Program,
    mount: Slot | int,
    *,
    why: str,
    add: tuple[str, ...] = (),
    clear: tuple[str, ...] = (),
    propagation: str = "",
    namespace: int = 0,
    recursive: bool = False,
) -> None:
    """Change attributes of the mount that *mount* is open on; *namespace* is the user namespace of MOUNT_ATTR_IDMAP."""
    change = (Flags(add).value(), Flags(clear).value(), Flags((propagation,)).value() if propagation else 0, namespace)
    words = [*(f"+{name}" for name in add), *(f"-{name}" for name in clear), *((propagation,) if propagation else ())]
    flags = Flags(("AT_EMPTY_PATH", *(("AT_RECURSIVE",) if recursive else ())))
    steps.call("mount_setattr", mount, "", flags, Words(8, change, label="{" + ", ".join(words) + "}"), 32, why=why)
