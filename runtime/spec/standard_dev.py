"""The /dev of a container as everybody expects it: plain data, for whoever lists its parts, and whoever makes them ahead.

The devices are those that the OCI spec promises (config-linux.md, "Default Devices"), the mounts' options those of
containerd.  Nothing is imported here: the monitor, which is kept small, reads it too.
"""

#: (path, major, minor) of the character devices.
DEVICES: tuple[tuple[str, int, int], ...] = (
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
)
DEVICE_MODE = 0o666

#: (target, name) of the links that programs expect.
LINKS: tuple[tuple[str, str], ...] = (
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("/proc/kcore", "core"),
    ("pts/ptmx", "ptmx"),
)

#: What other file systems are mounted on.
DIRECTORIES: tuple[str, ...] = ("pts", "mqueue", "shm")

#: Options of the tmpfs and of the devpts, as a mount of config.json has them.
TMPFS_OPTIONS: tuple[str, ...] = ("nosuid", "strictatime", "mode=755", "size=65536k")
DEVPTS_OPTIONS: tuple[str, ...] = ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")
