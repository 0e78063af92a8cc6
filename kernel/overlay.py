"""overlayfs, mounted detached.

Since Linux 6.7 every lower directory is an option of its own (``lowerdir+``), with no limit but the
kernel's 500.  Before, all of them share one string that fsconfig(2) cuts at 255 bytes, which is
three layers; so there mount(2) is used, whose page of options holds some 200 short names, in the
private mount namespace of a thread that ends with the call: nothing shows in the host's table.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from kernel import mount
from kernel._linux import lib
from kernel.errors import check
from kernel.fd import Fd, open_path
from kernel.namespace import in_new_thread, unshare

#: fsconfig(2) takes values of at most 255 bytes.
VALUE_LIMIT = 255
#: mount(2) takes one page of options.
PAGE_LIMIT = 4095


def has_lowerdir_options(release: str | None = None) -> bool:
    """Whether the kernel takes lower directories one by one (Linux 6.7)."""
    match = re.match(r"([0-9]+)\.([0-9]+)", os.uname().release if release is None else release)
    return match is not None and (int(match[1]), int(match[2])) >= (6, 7)


def mount_overlay(
    lower: Sequence[Path], upper: Path, work: Path, *, options: Sequence[str] = (), one_by_one: bool | None = None
) -> Fd:
    """A detached overlay: *lower* topmost first, changes in *upper*; *options* are flags such as "volatile".

    *one_by_one* chooses the way of handing over the layers; None asks the kernel's version.
    Raises OSError; its path names the option that was refused.
    """
    if has_lowerdir_options() if one_by_one is None else one_by_one:
        with ExitStack() as held:
            pairs: list[tuple[str, str | None] | str] = [("lowerdir+", _short(path, held)) for path in lower]
            pairs += [("upperdir", _short(upper, held)), ("workdir", _short(work, held)), *options]
            return mount.new_filesystem("overlay", pairs)
    return in_new_thread(lambda: _mount_by_page(lower, upper, work, options))


def _short(path: Path, held: ExitStack) -> str:
    """*path*, or a name for its descriptor when it is too long to be an option's value."""
    if len(os.fsencode(path)) <= VALUE_LIMIT:
        return str(path)
    return _descriptor(path, held)


def _mount_by_page(lower: Sequence[Path], upper: Path, work: Path, options: Sequence[str]) -> Fd:
    """mount(2) onto *upper* itself, in this thread's private namespace, and a detached copy of it."""
    unshare(lib.CLONE_FS | lib.CLONE_NEWNS)
    mount.set_propagation("/", "private", recursive=True)
    with ExitStack() as held:
        names = [_descriptor(path, held) for path in (upper, work, *lower)]
        page = ",".join([f"upperdir={names[0]}", f"workdir={names[1]}", *options, "lowerdir=" + ":".join(names[2:])])
        if len(page) > PAGE_LIMIT:
            why = f"{len(lower)} layers do not fit into one page of options; Linux 6.7 has no such limit"
            raise OSError(errno.E2BIG, why, "overlay")
        check(lib.mount(b"overlay", os.fsencode(upper), b"overlay", 0, page.encode()), "mount", "overlay")
        return mount.clone_tree(upper)


def _descriptor(path: Path, held: ExitStack) -> str:
    return f"/proc/self/fd/{held.enter_context(open_path(path, os.O_PATH | os.O_DIRECTORY)).fileno()}"
