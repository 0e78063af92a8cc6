"""Namespaces that another user namespace than the caller's owns: its root may then change what they hold.

A network namespace belongs to the user namespace that its maker is in, for good; so does what is set in it.
A process with threads cannot enter a user namespace, so a program does (as in ``foreign_mount``), and the
namespaces that it makes outlive it by descriptor (0.6 ms).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from kernel.fd import Fd
from kernel.foreign_mount import NAMESPACE, become_root, running, wait
from kernel.namespace import Kind, open_namespace
from kernel.program import Flags, Program, Slot

_CONSTANTS: dict[Kind, str] = {"net": "CLONE_NEWNET", "ipc": "CLONE_NEWIPC", "uts": "CLONE_NEWUTS"}


def new_namespaces(namespace: Fd, kinds: Iterable[Kind], settings: Mapping[str, str]) -> dict[Kind, Fd]:
    """New namespaces of *kinds* (net, ipc, uts) that the user namespace *namespace* owns, with nobody in them.

    *settings* are written by its root, by path: ``/proc/sys/net/...`` is that of the new namespaces there.
    Raises OSError; its file name is the setting that was refused.
    """
    wanted = tuple(kinds)
    steps = Program("maker of namespaces")
    steps.call("setns", NAMESPACE, Flags(("CLONE_NEWUSER",)), why="be in the user namespace that is to own them")
    become_root(steps)
    steps.call("unshare", Flags(tuple(_CONSTANTS[kind] for kind in wanted)), why="namespaces that it owns")
    for path, value in settings.items():
        steps.call("openat", Flags(("AT_FDCWD",)), path, Flags(("O_WRONLY", "O_CLOEXEC")), 0, store="setting", why=path)
        steps.call("write", Slot("setting"), value, len(os.fsencode(value)), why=path)
        steps.call("close", Slot("setting"), why=path)
    wait(steps)
    with running(steps, namespace) as (pid, _):
        return {kind: open_namespace(pid, kind) for kind in wanted}
