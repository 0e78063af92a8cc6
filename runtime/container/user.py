"""Who a container's process is: numbers from the request and from the image's /etc/passwd and /etc/group.

The image's files are read inside its root, with a bound on their size; a number is never looked up as
a name (CVE-2026-46680), and ids end at 2^31-1 (CVE-2024-40635).
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

from kernel.fd import Fd
from kernel.resolve import read_in_root
from runtime.container.config import ContainerConfig
from runtime.container.passwd import MAX_FILE, GroupEntry, PasswdEntry, parse_group, parse_passwd
from runtime.errors import InvalidArgument
from runtime.spec import schema

MAX_ID = (1 << 31) - 1


def resolve_user(root: Fd, config: ContainerConfig) -> tuple[schema.User, str]:
    """The user of *config*'s process, and its home directory.

    Raises InvalidArgument for a name that the image does not have: at create, not at start.
    """
    entry = _find_entry(root, config)
    uid = config.run_as_user if config.run_as_user is not None else entry.uid if entry else 0
    gid = _find_group(root, config, entry)
    groups = {*config.supplemental_groups}
    if not config.strict_groups and entry is not None:
        groups |= {group.gid for group in _groups(root) if entry.name in group.members}
    for number in (uid, gid, *groups):
        if not 0 <= number <= MAX_ID:
            raise InvalidArgument(f"user or group id {number}: must be between 0 and {MAX_ID}")
    # The primary group is among the supplementary ones too (CVE-2023-25173: a negative group permission must hold).
    return schema.User(uid=uid, gid=gid, additional_gids=sorted(groups | {gid})), entry.home if entry and entry.home else "/"


def _find_entry(root: Fd, config: ContainerConfig) -> PasswdEntry | None:
    if config.run_as_user is not None:
        return next((entry for entry in _users(root) if entry.uid == config.run_as_user), None)
    if not config.run_as_username:
        return next((entry for entry in _users(root) if entry.uid == 0), None)
    for entry in _users(root):
        if entry.name == config.run_as_username:
            return entry
    raise InvalidArgument(f"user {config.run_as_username!r}: not in the image's /etc/passwd")


def _find_group(root: Fd, config: ContainerConfig, entry: PasswdEntry | None) -> int:
    if config.run_as_group is not None:
        return config.run_as_group
    if not config.run_as_group_name:
        return entry.gid if entry else 0
    for group in _groups(root):
        if group.name == config.run_as_group_name:
            return group.gid
    raise InvalidArgument(f"group {config.run_as_group_name!r}: not in the image's /etc/group")


def _users(root: Fd) -> Iterator[PasswdEntry]:
    return parse_passwd(_read(root, "/etc/passwd"))


def _groups(root: Fd) -> Iterator[GroupEntry]:
    return parse_group(_read(root, "/etc/group"))


def _read(root: Fd, path: str) -> bytes:
    try:
        return read_in_root(root, path, MAX_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    except OSError as error:
        if error.errno in (errno.EFBIG, errno.EINVAL, errno.ELOOP):
            raise InvalidArgument(f"the image's {path}: {error.strerror}") from error
        raise
