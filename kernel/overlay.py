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
from kernel.errors import check, failure
from kernel.fd import Fd, open_path
from kernel.namespace import in_new_thread, unshare

#: fsconfig(2) takes values of at most 255 bytes.
VALUE_LIMIT = 255
Option = str | tuple[str, str]
#: mount(2) takes one page of options.
PAGE_LIMIT = 4095


def has_lowerdir_options(release: str | None = None) -> bool:
    """Whether the kernel takes lower directories one by one (Linux 6.7)."""
    match = re.match(r"([0-9]+)\.([0-9]+)", os.uname().release if release is None else release)
    return match is not None and (int(match[1]), int(match[2])) >= (6, 7)


def mount_overlay(
    lower: Sequence[Path],
    writable: tuple[Path, Path] | None,
    *,
    options: Sequence[Option] = (),
    one_by_one: bool | None = None,
    user_namespace: Fd | None = None,
) -> Fd:
    """A detached overlay: *lower* topmost first, changes in *writable*: an upper and a work directory.

    Without them nothing can be written, and there must be two layers.  *options* are flags such as "volatile", and pairs
    such as ("context", a SELinux label).  Through
    *user_namespace* the owners in the layers are seen by its maps (Linux 5.19); the upper directory holds them as
    the host knows them, for an overlay itself cannot be id-mapped.
    *one_by_one* chooses the way of handing over the layers; None asks the kernel's version.
    Raises OSError; its path names the option that was refused, or the layer.
    """
    by_option = has_lowerdir_options() if one_by_one is None else one_by_one
    if by_option and user_namespace is None:
        with ExitStack() as held:
            return _mount_by_options([_short(path, held) for path in lower], writable, options, held)
    return in_new_thread(lambda: _mount_apart(lower, writable, options, user_namespace, by_option=by_option))


def _mount_apart(
    lower: Sequence[Path], writable: tuple[Path, Path] | None, options: Sequence[Option], user: Fd | None, *, by_option: bool
) -> Fd:
    """In the private mount namespace of this thread: overlayfs takes no layer that is in none (before Linux 6.15)."""
    unshare(lib.CLONE_FS | lib.CLONE_NEWNS)
    mount.set_propagation("/", "private", recursive=True)
    with ExitStack() as held:
        layers = [_descriptor(path, held) for path in lower] if user is None else _mapped(lower, user, held)
        if by_option:
            return _mount_by_options(layers, writable, options, held)
        return _mount_by_page(layers, writable, options, lower[-1], held)


def _mapped(lower: Sequence[Path], user: Fd, held: ExitStack) -> list[str]:
    """Names for id-mapped mounts of *lower*, which are stacked on the last of them."""
    mounts = [held.enter_context(mount.clone_tree(path)) for path in lower]
    for path, layer in zip(lower, mounts, strict=True):
        try:
            mount.set_attributes(layer, user_namespace=user)
        except OSError as error:
            raise failure(error.errno or errno.EINVAL, "mount_setattr", path) from error
        mount.attach(layer, lower[-1])
    return [f"/proc/self/fd/{layer.fileno()}" for layer in mounts]


def _mount_by_options(
    layers: Sequence[str], writable: tuple[Path, Path] | None, options: Sequence[Option], held: ExitStack
) -> Fd:  # fmt: skip
    pairs: list[tuple[str, str | None] | str] = [("lowerdir+", layer) for layer in layers]
    if writable is not None:
        pairs += [(name, _short(path, held)) for name, path in zip(("upperdir", "workdir"), writable, strict=True)]
    return mount.new_filesystem("overlay", [*pairs, *options])


def _short(path: Path, held: ExitStack) -> str:
    """*path*, or a name for its descriptor when it is too long to be an option's value."""
    if len(os.fsencode(path)) <= VALUE_LIMIT:
        return str(path)
    return _descriptor(path, held)


def _mount_by_page(
    layers: Sequence[str], writable: tuple[Path, Path] | None, options: Sequence[Option], target: Path, held: ExitStack
) -> Fd:
    """mount(2) onto *target*, in this thread's private namespace, and a detached copy of it."""
    words = []
    if writable is not None:
        words = [f"{name}={_descriptor(path, held)}" for name, path in zip(("upperdir", "workdir"), writable, strict=True)]
    words += [each if isinstance(each, str) else f'{each[0]}="{each[1]}"' for each in options]  # a label has commas of its own
    page = ",".join([*words, "lowerdir=" + ":".join(layers)])
    if len(page) > PAGE_LIMIT:
        why = f"{len(layers)} layers do not fit into one page of options; Linux 6.7 has no such limit"
        raise OSError(errno.E2BIG, why, "overlay")
    check(lib.mount(b"overlay", os.fsencode(target), b"overlay", 0, page.encode()), "mount", "overlay")
    return mount.clone_tree(target)


def _descriptor(path: Path, held: ExitStack) -> str:
    return f"/proc/self/fd/{held.enter_context(open_path(path, os.O_PATH | os.O_DIRECTORY)).fileno()}"
