"""Mounts of what lies inside a file system that is in no mount table; and one of our own to make single files on.

Since Linux 6.15 it is in no mount table and copied from there.  Before, the kernel copies only what is mounted (EINVAL), so
it is put into a mount namespace that no process is in, and copied by a thread that enters it.
"""

from __future__ import annotations

import errno
import os

from kernel import mount
from kernel._linux import lib
from kernel.fd import Fd
from kernel.namespace import in_namespace, in_new_thread, open_namespace, unshare
from kernel.resolve import open_in_root


def clone_inside(files: Fd, path: str) -> Fd:
    """A detached mount of the directory at *path* inside the detached mount *files*, with its attributes.

    Links in it lead nowhere outside.  Raises OSError for a path that is no directory there.
    """

    def work() -> Fd:
        unshare(lib.CLONE_FS | lib.CLONE_NEWNS)
        mount.set_propagation("/", "private", recursive=True)
        mount.attach(files, "/proc")  # a directory on every host; the kernel copies what is mounted
        with open_in_root(files, path, os.O_PATH | os.O_DIRECTORY) as found:
            return mount.clone_tree("", directory=found)

    return in_new_thread(work)


class Workshop:
    """A new tmpfs, with files made below ``fileno()``.  Close it when all copies are made; these stay."""

    def __init__(self) -> None:
        """Raises OSError: EPERM where this user may not mount."""
        self._files = mount.new_filesystem("tmpfs", [("mode", "0755")])
        self._mounts: Fd | None = None

    def fileno(self) -> int:
        """Its top directory."""
        return self._files.fileno()

    def clone(self, name: str) -> Fd:
        """A detached mount of the file *name*."""
        if self._mounts is None:
            try:
                return mount.clone_tree(name, directory=self._files)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
            self.hide()
        assert self._mounts is not None
        return in_namespace(self._mounts, "mnt", lambda: mount.clone_tree(name, directory=self._files))

    def hide(self) -> None:
        """Mount it in a namespace of its own, as an old kernel wants it."""

        def work() -> Fd:
            unshare(lib.CLONE_FS | lib.CLONE_NEWNS)
            mount.set_propagation("/", "private", recursive=True)
            made = open_namespace("thread-self", "mnt")
            mount.attach(self._files, "/proc")  # a directory on every host
            os.chdir("/proc")
            mount.pivot_root(".", ".")
            mount.unmount(".")
            return made

        self._mounts = in_new_thread(work)

    def close(self) -> None:
        """Let go of it."""
        for held in (self._files, self._mounts):
            if held is not None:
                held.close()
