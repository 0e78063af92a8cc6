"""What an errno means for each call that programs make, and what to try: read only when a step has failed.

By call, or by call and one of its flags, or by errno alone.  A step's own hint stands where this says nothing: what the
recipe knows of the spec's field is more than what the kernel means in general.
"""

from __future__ import annotations

import errno

from kernel.program import Flags, Step

#: The first Linux that has the call.
_SINCE = {
    "clone3": "5.3",
    "close_range": "5.9",
    "faccessat2": "5.8",
    "fsconfig": "5.2",
    "fsmount": "5.2",
    "fsopen": "5.2",
    "mount_setattr": "5.12",
    "move_mount": "5.2",
    "open_tree": "5.2",
    "openat2": "5.6",
    "pidfd_getfd": "5.6",
    "pidfd_open": "5.3",
}

_RIGHT_TO_MAKE = (
    "the right to is missing (CAP_SYS_ADMIN), or this host forbids it: look at /proc/sys/user/max_*_namespaces, and in a user "
    "namespace at /proc/sys/kernel/unprivileged_userns_clone and apparmor_restrict_unprivileged_userns"
)
_NAMESPACE_LIMIT = "a limit of namespaces is reached: look at /proc/sys/user/max_*_namespaces"
_MOUNT_LIMIT = "too many mounts in one namespace: look at /proc/sys/fs/mount-max"
_FULL = "the file system is full, or has no inodes left"
_READ_ONLY = "nothing stands there and what is below is read-only: make it in the image, or mount a tmpfs above it"
_HIDDEN = (
    "in a user namespace a new procfs or sysfs must not show more than the node's does: here something is mounted over parts of "
    "it; bind the node's instead"
)
_LOCKED = "its flags, or what it covers, are locked: the mount comes from a namespace with more rights"

#: Whatever was called.
_ALWAYS = {
    errno.EMFILE: "too many open descriptors: raise the limit of whoever starts containers (ulimit -n, LimitNOFILE)",
    errno.ENFILE: "the node has too many open files: look at /proc/sys/fs/file-max",
    errno.ENOMEM: "no memory is left: on the node, or below the limit of the container's cgroup (linux.resources.memory)",
    errno.EDQUOT: "a quota is used up",
}

_HINTS: dict[tuple[str, int], str] = {
    ("chroot", errno.EPERM): "the right to is missing (CAP_SYS_CHROOT)",
    ("clone3", errno.EACCES): "nobody here may put processes into that cgroup: look at the owner of cgroup.procs there and above",
    ("clone3", errno.EAGAIN): "too many processes: look at RLIMIT_NPROC, linux.resources.pids, and pids.max of the cgroups above",
    ("clone3", errno.EBUSY): "the cgroup has handed controllers on to its children, so no process may be in it",
    ("clone3", errno.EINVAL): "the kernel was built without one of these namespaces: look into /proc/self/ns",
    ("clone3", errno.ENODEV): "the cgroup was removed meanwhile",
    ("clone3", errno.ENOENT): "the cgroup was removed meanwhile",
    ("clone3", errno.ENOSPC): _NAMESPACE_LIMIT,
    ("clone3", errno.EOPNOTSUPP): "the cgroup is threaded, or below one that is: look at cgroup.type",
    ("clone3", errno.EPERM): _RIGHT_TO_MAKE,
    ("clone3", errno.EUSERS): _NAMESPACE_LIMIT,
    ("execve", errno.E2BIG): "arguments and environment are too long: 128 KiB each, a quarter of the stack limit in all",
    ("execve", errno.EACCES): "it is no file that this user may execute, or its mount has noexec",
    ("execve", errno.EAGAIN): "the user has more processes than RLIMIT_NPROC allows",
    ("execve", errno.EIO): "its file system cannot read it: look at dmesg",
    ("execve", errno.ELIBBAD): "the interpreter that it names is for another machine",
    ("execve", errno.ELOOP): "links in the image go round in a circle, or scripts name each other as interpreters",
    (
        "execve",
        errno.ENOEXEC,
    ): "it is neither a program for this machine nor a script that begins with #!: look at the image's platform",
    ("execve", errno.ENOTDIR): "something on the way to it is a file",
    ("execve", errno.EPERM): "a security module or a filter forbids it",
    ("execve", errno.ETXTBSY): "somebody has it open to write to it",
    ("fchdir", errno.EACCES): "the user may not enter the directory",
    ("fsconfig:FSCONFIG_CMD_CREATE", errno.EBUSY): "it is in use elsewhere with other options",
    ("fsconfig:FSCONFIG_CMD_CREATE", errno.EINVAL): "an option has a value that this file system refuses: dmesg may say which",
    ("fsconfig:FSCONFIG_CMD_CREATE", errno.ENOENT): "its source is not there",
    ("fsconfig:FSCONFIG_CMD_CREATE", errno.ENOTBLK): "its source is no block device",
    ("fsconfig:FSCONFIG_CMD_CREATE", errno.EPERM): "who owns the user namespace may not make this file system",
    ("fsmount", errno.EPERM): _HIDDEN,
    ("fsopen", errno.EPERM): "the right to mount is missing (CAP_SYS_ADMIN in the namespace's user namespace)",
    ("ioctl:TIOCSCTTY", errno.EPERM): "the terminal is that of another session",
    ("ioctl:TIOCSCTTY", errno.ENOTTY): "standard input is no terminal, as process.terminal says it is",
    ("keyctl", errno.EDQUOT): "too many keys for this user: look at /proc/key-users",
    (
        "mkdirat",
        errno.EACCES,
    ): "who owns the container's user namespace may not write there: look at the owner of the root file system",
    ("mkdirat", errno.ENOSPC): _FULL,
    ("mkdirat", errno.EROFS): _READ_ONLY,
    ("mknodat", errno.ENOSPC): _FULL,
    ("mknodat", errno.EROFS): _READ_ONLY,
    ("mount", errno.EBUSY): "it is in use, or mounted there already",
    ("mount", errno.ENODEV): "the kernel has no such file system: look into /proc/filesystems",
    ("mount", errno.ENOSPC): _MOUNT_LIMIT,
    ("mount", errno.EPERM): "the right to mount is missing (CAP_SYS_ADMIN), or the flags of what is below are locked",
    ("mount_setattr", errno.EINVAL): "the mount cannot be changed like that: an id map or propagation that it does not support",
    ("mount_setattr", errno.EPERM): _LOCKED,
    ("move_mount", errno.ELOOP): "it would be mounted upon itself",
    ("move_mount", errno.ENOSPC): _MOUNT_LIMIT,
    ("move_mount", errno.EPERM): _LOCKED,
    ("open_tree", errno.ENOSPC): _MOUNT_LIMIT,
    ("open_tree", errno.EPERM): _LOCKED,
    ("openat2", errno.EACCES): "nobody here may look into a directory on the way: look at its owner and mode",
    ("openat2", errno.EAGAIN): "somebody renames on the way to it all the time: try again",
    ("openat2", errno.ELOOP): "a link stands where none may be, or links go round in a circle",
    ("openat2", errno.ENOTDIR): "something on the way, or it itself, is a file where a directory is wanted",
    ("openat2", errno.EXDEV): "something is mounted on the way to it, where nothing may be",
    ("pivot_root", errno.EBUSY): "root.path must be another directory than the root that we are in",
    ("pivot_root", errno.EPERM): "the right to is missing (CAP_SYS_ADMIN over this mount namespace)",
    ("prctl:PR_CAPBSET_DROP", errno.EPERM): "dropping takes CAP_SETPCAP, which the runtime does not have here",
    (
        "prctl:PR_CAP_AMBIENT_RAISE",
        errno.EPERM,
    ): "what is ambient must be permitted and inheritable as well (process.capabilities)",
    ("prlimit64", errno.EINVAL): "the soft limit is above the hard one",
    ("prlimit64:RLIMIT_NOFILE", errno.EPERM): "above what we have ourselves, or above /proc/sys/fs/nr_open",
    ("seccomp", errno.EACCES): "without process.noNewPrivileges it takes CAP_SYS_ADMIN",
    ("seccomp", errno.EBUSY): "another filter of this process has a listener already",
    (
        "seccomp",
        errno.EINVAL,
    ): "this kernel does not know an action or a flag of the filter, or it has more than 4096 instructions",
    ("setdomainname", errno.EINVAL): "a name has 64 bytes at most",
    (
        "setgroups",
        errno.EINVAL,
    ): "there are 65536 groups at most, and in a user namespace each must be mapped (linux.gidMappings)",
    ("sethostname", errno.EINVAL): "a name has 64 bytes at most",
    ("setns", errno.EINVAL): "it is of another type, or the one that we are in already",
    ("setns", errno.EPERM): "entering takes CAP_SYS_ADMIN in the user namespace that owns it",
    ("setns", errno.ESRCH): "the process whose namespace it is has ended",
    ("setresuid", errno.EAGAIN): "the user has more processes than RLIMIT_NPROC allows",
    ("symlinkat", errno.ENOSPC): _FULL,
    ("symlinkat", errno.EROFS): _READ_ONLY,
    ("umount2", errno.EINVAL): "it is no mount point, or locked together with others",
    ("unshare", errno.EINVAL): "the kernel was built without this kind of namespace: look into /proc/self/ns",
    ("unshare", errno.ENOSPC): _NAMESPACE_LIMIT,
    ("unshare", errno.EPERM): _RIGHT_TO_MAKE,
    ("unshare", errno.EUSERS): _NAMESPACE_LIMIT,
}


#: Where a step has no hint of its own.
_ELSE = {
    ("fsopen", errno.ENODEV): "the kernel has no such file system: look into /proc/filesystems",
    ("mknodat", errno.EPERM): "nobody here may make that there: look at the file system's owner, and whether it is immutable",
    ("move_mount", errno.EINVAL): "a file goes on a file and a directory on a directory; and no shared mount may lie above",
    ("move_mount", errno.ENOTDIR): "a file goes on a file and a directory on a directory",
}


def hint_for(step: Step, number: int) -> str:
    """What the errno *number* of *step* means and what to try; empty when there is nothing to say."""
    if number == errno.ENOSYS:
        since = f": Linux {_SINCE[step.call]} is the first that has it" if step.call in _SINCE else ""
        return f"this kernel has no {step.call}(2){since}; or a filter of whoever started us hides it"
    if number in _ALWAYS and (step.call, number) not in _HINTS:
        return _ALWAYS[number]
    flags = [name for argument in step.arguments if isinstance(argument, Flags) for name in argument.names]
    for key in (*(f"{step.call}:{name}" for name in flags), step.call):
        if (key, number) in _HINTS:
            return _HINTS[key, number]
    return step.hint or _ELSE.get((step.call, number), "")
