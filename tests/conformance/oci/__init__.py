"""The OCI runtime specification, restated as tests that drive a command line: ours, and crun and runc to test the tests.

They are part of ``make test``, are quick, and need what the rest needs.  What they restate is also asked by three suites
of others, which are too large, too slow and too tied to one machine to be part of a test run.  They drive any runtime
that is given by its path, and were run against ours so:

    opencontainers/runtime-tools (5e63903)  the 58 programs of validation/, with RUNTIME=/path/to/kernelet-oci; for
        each its exit code and its TAP lines count, because eight of them print nothing when all is well
    containers/crun (ba38286)  tests/test_*.py, with OCI_RUNTIME, INIT (tests/init.c, static), CGROUP_MANAGER=cgroupfs
        and Python's libmount
    opencontainers/runc (76d9cf5)  tests/integration/*.bats, with RUNC, under script(1) for a terminal; its images are a
        static busybox without /proc, /sys and /dev, and a minimal Debian with util-linux

each in mount, network, pid, ipc, uts and cgroup namespaces of its own, with a /dev of its own (some runtimes give
/dev/null away) and a private view of the cgroup v2 tree.  How many of them are well, what the peers reach on the same
machine, and why the rest is not, one by one, is in ``external.md``.

``peers.py`` says where crun and runc differ from what these tests ask.
"""
