"""Build ``kernel._linux`` (cffi, API mode) and the freestanding ``runner``.

API mode lets the C compiler own every number and layout: a constant is declared ``static const int``
and filled in from the kernel's headers, so nothing is typed by hand that differs between machines.
Read by setuptools (pyproject.toml, ``[tool.setuptools.cmdclass]``); never imported at run time.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from cffi import FFI
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent

#: Kernel constants, by header order.  All of them fit in 64 bits; cffi asks the compiler for each.
CONSTANTS = """
    AT_FDCWD AT_EMPTY_PATH AT_SYMLINK_NOFOLLOW AT_RECURSIVE AT_NO_AUTOMOUNT
    O_PATH O_CLOEXEC O_NOFOLLOW O_DIRECTORY O_RDONLY O_WRONLY O_RDWR O_CREAT O_EXCL O_APPEND O_NOCTTY O_NONBLOCK O_TRUNC
    MS_RDONLY MS_NOSUID MS_NODEV MS_NOEXEC MS_REMOUNT MS_BIND MS_MOVE MS_REC MS_PRIVATE MS_SLAVE MS_SHARED MS_UNBINDABLE
    MS_STRICTATIME MS_RELATIME MS_NOATIME MS_NODIRATIME MS_NOSYMFOLLOW
    MS_SYNCHRONOUS MS_DIRSYNC MS_MANDLOCK MS_I_VERSION MS_LAZYTIME MS_SILENT
    MNT_DETACH UMOUNT_NOFOLLOW
    FSOPEN_CLOEXEC FSMOUNT_CLOEXEC FSPICK_CLOEXEC
    FSCONFIG_SET_FLAG FSCONFIG_SET_STRING FSCONFIG_SET_FD FSCONFIG_CMD_CREATE FSCONFIG_CMD_RECONFIGURE
    OPEN_TREE_CLONE OPEN_TREE_CLOEXEC
    MOVE_MOUNT_F_EMPTY_PATH MOVE_MOUNT_T_EMPTY_PATH
    MOUNT_ATTR_RDONLY MOUNT_ATTR_NOSUID MOUNT_ATTR_NODEV MOUNT_ATTR_NOEXEC MOUNT_ATTR__ATIME MOUNT_ATTR_RELATIME
    MOUNT_ATTR_NOATIME MOUNT_ATTR_STRICTATIME MOUNT_ATTR_NODIRATIME MOUNT_ATTR_IDMAP MOUNT_ATTR_NOSYMFOLLOW
    RESOLVE_NO_XDEV RESOLVE_NO_MAGICLINKS RESOLVE_NO_SYMLINKS RESOLVE_BENEATH RESOLVE_IN_ROOT
    CLONE_NEWNS CLONE_NEWUTS CLONE_NEWIPC CLONE_NEWUSER CLONE_NEWPID CLONE_NEWNET CLONE_NEWCGROUP CLONE_NEWTIME
    CLONE_FS CLONE_PARENT CLONE_PIDFD CLONE_PARENT_SETTID CLONE_INTO_CGROUP CLONE_CLEAR_SIGHAND
    CLOSE_RANGE_CLOEXEC CLOSE_RANGE_UNSHARE
    P_ALL P_PID P_PIDFD WEXITED WNOHANG WNOWAIT
    SIGCHLD SIGKILL SIGTERM SIG_BLOCK SIG_UNBLOCK SIG_SETMASK
    S_IFREG S_IFCHR S_IFBLK S_IFIFO S_IFDIR
    F_DUPFD_CLOEXEC F_ADD_SEALS F_SEAL_SEAL F_SEAL_SHRINK F_SEAL_GROW F_SEAL_WRITE
    MFD_CLOEXEC MFD_ALLOW_SEALING PROT_READ PROT_WRITE MAP_SHARED
    FUTEX_WAIT FUTEX_WAKE
    PR_SET_NAME PR_SET_KEEPCAPS PR_CAPBSET_DROP PR_CAPBSET_READ PR_SET_NO_NEW_PRIVS PR_SET_PDEATHSIG PR_SET_DUMPABLE
    PR_CAP_AMBIENT PR_CAP_AMBIENT_CLEAR_ALL PR_CAP_AMBIENT_RAISE PR_CAP_AMBIENT_IS_SET PR_SET_SECCOMP PR_GET_SECCOMP
    PR_SET_CHILD_SUBREAPER
    SECCOMP_SET_MODE_FILTER SECCOMP_GET_ACTION_AVAIL SECCOMP_FILTER_FLAG_LOG SECCOMP_FILTER_FLAG_SPEC_ALLOW
    SECCOMP_FILTER_FLAG_TSYNC SECCOMP_FILTER_FLAG_NEW_LISTENER SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
    SECCOMP_RET_KILL_PROCESS SECCOMP_RET_KILL_THREAD SECCOMP_RET_TRAP SECCOMP_RET_ERRNO SECCOMP_RET_USER_NOTIF
    SECCOMP_RET_TRACE SECCOMP_RET_LOG SECCOMP_RET_ALLOW SECCOMP_RET_DATA
    AUDIT_ARCH_X86_64 AUDIT_ARCH_I386 AUDIT_ARCH_AARCH64 AUDIT_ARCH_ARM
    _LINUX_CAPABILITY_VERSION_3
    KEYCTL_JOIN_SESSION_KEYRING KEYCTL_SETPERM
    NS_GET_USERNS NS_GET_PARENT NS_GET_NSTYPE
    SCHED_OTHER SCHED_FIFO SCHED_RR SCHED_BATCH SCHED_ISO SCHED_IDLE SCHED_DEADLINE
    SCHED_FLAG_RESET_ON_FORK SCHED_FLAG_RECLAIM SCHED_FLAG_DL_OVERRUN SCHED_FLAG_KEEP_POLICY SCHED_FLAG_KEEP_PARAMS
    SCHED_FLAG_UTIL_CLAMP_MIN SCHED_FLAG_UTIL_CLAMP_MAX
    IOPRIO_WHO_PROCESS IOPRIO_CLASS_SHIFT IOPRIO_CLASS_RT IOPRIO_CLASS_BE IOPRIO_CLASS_IDLE
    PER_LINUX PER_LINUX32
    MPOL_DEFAULT MPOL_BIND MPOL_INTERLEAVE MPOL_PREFERRED MPOL_PREFERRED_MANY MPOL_LOCAL
    MPOL_F_NUMA_BALANCING MPOL_F_RELATIVE_NODES MPOL_F_STATIC_NODES
    TIOCGPTPEER TIOCSCTTY TIOCSWINSZ TIOCGWINSZ TIOCSPTLCK TIOCGPTN
    RLIMIT_CPU RLIMIT_FSIZE RLIMIT_DATA RLIMIT_STACK RLIMIT_CORE RLIMIT_RSS RLIMIT_NPROC RLIMIT_NOFILE RLIMIT_MEMLOCK
    RLIMIT_AS RLIMIT_LOCKS RLIMIT_SIGPENDING RLIMIT_MSGQUEUE RLIMIT_NICE RLIMIT_RTPRIO RLIMIT_RTTIME
    PROC_SUPER_MAGIC DEVPTS_SUPER_MAGIC OVERLAYFS_SUPER_MAGIC TMPFS_MAGIC CGROUP2_SUPER_MAGIC NSFS_MAGIC
    BPF_PROG_LOAD BPF_PROG_ATTACH BPF_PROG_DETACH BPF_PROG_QUERY BPF_PROG_GET_FD_BY_ID
    BPF_PROG_TYPE_CGROUP_DEVICE BPF_CGROUP_DEVICE BPF_F_ALLOW_MULTI BPF_F_REPLACE
    SPLICE_F_NONBLOCK SIOCSIFFLAGS IFF_UP AF_INET SOCK_DGRAM SOCK_CLOEXEC
""".split()

#: System calls that programs are made of: the number of each comes from the headers too.
CALLS = """
    bpf capset chdir chroot clock_gettime clone3 close close_range dup3 execve exit_group faccessat2 fchdir fchmod fchmodat
    fchown fchownat
    fcntl fsconfig fsmount fsopen futex getcwd getpid ioctl ioprio_set keyctl kill linkat mkdirat mknodat mmap mount mount_setattr
    move_mount munmap nanosleep open_tree openat openat2 personality pidfd_getfd pidfd_open pivot_root ppoll prctl prlimit64 read
    recvmsg renameat2 socket rt_sigaction rt_sigprocmask sched_setaffinity sched_setattr seccomp set_mempolicy setdomainname
    setgroups sethostname setns
    setresgid setresuid setsid symlinkat umask umount2 unlinkat unshare utimensat wait4 waitid write
""".split()

CDEF = """
    long linux_syscall(long number, long a, long b, long c, long d, long e, long f);

    struct open_how { uint64_t flags; uint64_t mode; uint64_t resolve; ...; };
    struct mount_attr { uint64_t attr_set; uint64_t attr_clr; uint64_t propagation; uint64_t userns_fd; ...; };
    struct clone_args {
        uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
        ...;
    };

    int open_tree(int dirfd, const char *path, unsigned int flags);
    int move_mount(int from_dirfd, const char *from, int to_dirfd, const char *to, unsigned int flags);
    int fsopen(const char *filesystem, unsigned int flags);
    int fsconfig(int fd, unsigned int command, const char *key, const void *value, int aux);
    int fsmount(int fd, unsigned int flags, unsigned int attributes);
    int mount_setattr(int dirfd, const char *path, unsigned int flags, struct mount_attr *attr, size_t size);
    int mount(const char *source, const char *target, const char *type, unsigned long flags, const void *data);
    int umount2(const char *target, int flags);
    int linux_pivot_root(const char *new_root, const char *put_old);
    int linux_openat2(int dirfd, const char *path, struct open_how *how, size_t size);
    int unshare(int flags);
    int setns(int fd, int type);
    int sethostname(const char *name, size_t length);
    int linux_pidfd_getfd(int pidfd, int target, unsigned int flags);
    int linux_close_range(unsigned int first, unsigned int last, unsigned int flags);
    int linux_capget(uint32_t version, int pid, uint32_t data[6]);
    int linux_capset(uint32_t version, int pid, const uint32_t data[6]);
    int linux_seccomp(unsigned int operation, unsigned int flags, void *arguments);
    int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d);
    long linux_statfs_type(int fd);
    int syncfs(int fd);
    ssize_t linux_tee(int from, int to, size_t length, unsigned int flags);
    int ioctl(int fd, unsigned long request, ...);

    struct sock_filter { uint16_t code; uint8_t jt; uint8_t jf; uint32_t k; };
    struct sock_fprog { unsigned short len; struct sock_filter *filter; };
"""

SOURCE = """
    #define _GNU_SOURCE
    #include <errno.h>
    #include <fcntl.h>
    #include <sched.h>
    #include <signal.h>
    #include <stdint.h>
    #include <sys/ioctl.h>
    #include <sys/mman.h>
    #include <sys/mount.h>
    #include <sys/personality.h>
    #include <sys/socket.h>
    #include <net/if.h>
    #include <sys/prctl.h>
    #include <sys/resource.h>
    #include <sys/stat.h>
    #include <sys/syscall.h>
    #include <sys/vfs.h>
    #include <sys/wait.h>
    #include <unistd.h>
    #include <linux/audit.h>
    #include <linux/bpf.h>
    #include <linux/capability.h>
    #include <linux/close_range.h>
    #include <linux/filter.h>
    #include <linux/futex.h>
    #include <linux/ioprio.h>
    #include <linux/keyctl.h>
    #include <linux/magic.h>
    #include <linux/mempolicy.h>
    #include <linux/mount.h>
    #include <linux/nsfs.h>
    #include <linux/openat2.h>
    #include <linux/sched.h>
    #include <linux/seccomp.h>

    /* Newer than the headers of Debian 11. */
    #ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
    #define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5) /* Linux 5.19 */
    #endif

    static long linux_syscall(long number, long a, long b, long c, long d, long e, long f)
    { return syscall(number, a, b, c, d, e, f); }
    static int linux_pivot_root(const char *new_root, const char *put_old)
    { return syscall(SYS_pivot_root, new_root, put_old); }
    static int linux_openat2(int dirfd, const char *path, struct open_how *how, size_t size)
    { return syscall(SYS_openat2, dirfd, path, how, size); }
    static int linux_pidfd_getfd(int pidfd, int target, unsigned int flags)
    { return syscall(SYS_pidfd_getfd, pidfd, target, flags); }
    static int linux_close_range(unsigned int first, unsigned int last, unsigned int flags)
    { return syscall(SYS_close_range, first, last, flags); }
    static int linux_capget(uint32_t version, int pid, uint32_t data[6])
    { struct __user_cap_header_struct header = { version, pid }; return syscall(SYS_capget, &header, data); }
    static int linux_capset(uint32_t version, int pid, const uint32_t data[6])
    { struct __user_cap_header_struct header = { version, pid }; return syscall(SYS_capset, &header, data); }
    static int linux_seccomp(unsigned int operation, unsigned int flags, void *arguments)
    { return syscall(SYS_seccomp, operation, flags, arguments); }
    static long linux_statfs_type(int fd)
    { struct statfs found; return fstatfs(fd, &found) < 0 ? -1 : (long) found.f_type; }
    static ssize_t linux_tee(int from, int to, size_t length, unsigned int flags)
    { return tee(from, to, length, flags); }
"""


def declarations() -> str:
    """The C declarations, constants and system call numbers included."""
    names = [*CONSTANTS, *(f"SYS_{call}" for call in CALLS)]
    return CDEF + "\n".join(f"#define {name} ..." for name in names)


def compile_runner(compiler: str, output: Path) -> None:
    """Compile ``runner.c`` for *compiler*'s machine: static, no libc, no start files."""
    flags = (
        "-std=gnu11 -Os -Wall -Wextra -Werror -ffreestanding -fno-builtin -fno-stack-protector -fno-pic -no-pie "
        "-fno-asynchronous-unwind-tables -fomit-frame-pointer -static -nostdlib -Wl,--build-id=none -Wl,-z,noseparate-code "
        "-Wl,-z,noexecstack -Wl,-z,max-page-size=4096 -s"
    )
    subprocess.run([compiler, *flags.split(), "-o", str(output), str(HERE / "runner.c")], check=True)


class BuildExt(build_ext):
    """Generate and compile the cffi module, then the runner beside it."""

    def run(self) -> None:
        ffi = FFI()
        ffi.set_source("kernel._linux", SOURCE)
        ffi.cdef(declarations())
        ffi.emit_c_code(str(HERE / "_linux.c"))
        runner = HERE / "runner"
        compile_runner(os.environ.get("CC", "gcc"), runner)
        super().run()
        if not self.inplace:
            target = Path(self.build_lib) / "kernel" / "runner"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(runner, target)
