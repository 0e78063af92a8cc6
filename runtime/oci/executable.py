"""Can the container's program be executed?  Asked before ``create`` returns, because its caller expects to hear it there."""

from __future__ import annotations

import errno
import os
import stat

from kernel.fd import Fd
from kernel.resolve import open_in_root
from runtime.container.process import DEFAULT_PATH
from runtime.errors import StartFailed
from runtime.spec import schema

_OVERRIDE = "CAP_DAC_OVERRIDE"


def check_executable(root: Fd, process: schema.Process) -> None:
    """Raise StartFailed, in runc's words, unless *process* would find its program in *root* and may execute it."""
    name = process.args[0]
    if "/" in name:
        reason = _refusal(root, os.path.join(process.cwd, name), process)
        if reason:
            raise StartFailed(f'exec: "{name}": {_words(name, reason)}')
        return
    path = next((entry[5:] for entry in process.env if entry.startswith("PATH=")), DEFAULT_PATH)
    refused = 0
    for directory in path.split(":"):
        reason = _refusal(root, os.path.join(process.cwd, directory, name), process)
        if not reason:
            return
        refused = reason if reason == errno.EACCES else refused
    if refused:
        raise StartFailed(f'exec: "{name}": {_words(name, refused)}')
    raise StartFailed(f'exec: "{name}": executable file not found in $PATH')


def _words(name: str, reason: int) -> str:
    if reason == errno.ENOENT:
        return f"stat {name}: no such file or directory"
    return os.strerror(reason).lower()


def _refusal(root: Fd, path: str, process: schema.Process) -> int:
    """Why *path* cannot be executed, as an errno; 0 when it can."""
    try:
        with open_in_root(root, path) as file:
            status = os.fstat(file.fileno())
            is_noexec = bool(os.fstatvfs(file.fileno()).f_flag & os.ST_NOEXEC)
    except OSError as error:
        return error.errno or errno.ENOENT
    if stat.S_ISDIR(status.st_mode):
        return errno.EISDIR
    if not stat.S_ISREG(status.st_mode) or is_noexec or not _may_execute(status, process):
        return errno.EACCES
    return 0


def _may_execute(status: os.stat_result, process: schema.Process) -> bool:
    mode, user = status.st_mode, process.user
    capabilities = process.capabilities
    if capabilities is not None and _OVERRIDE in capabilities.effective:
        return bool(mode & 0o111)
    if status.st_uid == user.uid:
        return bool(mode & stat.S_IXUSR)
    if status.st_gid == user.gid or status.st_gid in user.additional_gids:
        return bool(mode & stat.S_IXGRP)
    return bool(mode & stat.S_IXOTH)
