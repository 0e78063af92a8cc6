"""The descriptors of a launch, by number: what the program's steps say is what the monitor arranges.

The reaper keeps 4 to 14 for the life of the container, so that another monitor can take them over
with pidfd_getfd(2); what was opened for the start alone begins at ``FIRST_OPENED``.
"""

from enum import IntEnum


class Descriptor(IntEnum):
    STDIN = 0
    STDOUT = 1
    STDERR = 2
    PROGRAM = 3
    REPORT = 4
    READY_READ = 5  # a byte: the set-up is done; end of file: execve happened, or the process is gone
    READY = 6  # the other end, in the new process alone
    START = 7  # eventfd that releases a created container
    DONE = 8  # eventfd: the exit status is in the run directory
    RUN_DIR = 9  # where the reaper leaves "exit"
    OUTPUT = 10  # the monitor's end of stdout, or the terminal's master
    ERRORS = 11  # the monitor's end of stderr
    INPUT = 12  # the monitor's end of stdin
    CGROUP = 13
    INIT = 14  # pidfd of the new process
    VOID = 15  # a mount namespace with nothing in it
    DEV = 16  # a tmpfs with devices, links and places, in no mount table (runtime.monitor.ready_dev)
    DEVPTS = 17
    EMPTY = 18  # an empty directory, likewise


#: Namespaces, mounts and other things opened beforehand for one start.
FIRST_OPENED = 20
#: Where the descriptors stand that the caller hands to the container, until they move to 3 and on.
FIRST_PRESERVED = 600

#: The file that a reaper leaves behind, and what it holds: siginfo_t (128 bytes) and a struct timespec.
EXIT_FILE = "exit"
SIGINFO_SIZE, EXIT_SIZE = 128, 144
