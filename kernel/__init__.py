"""Thin, typed wrappers over the Linux kernel: one file per facility, named as the kernel names it.

Every call raises ``OSError`` with errno, path and the call's name (``errors.check``); every
descriptor that is returned has an owner (``fd.Fd``); safe flags (CLOEXEC, NOCTTY) are added here,
not remembered by callers.  Nothing in this package knows OCI or Kubernetes, logs, or decides.

Only this package imports cffi and python-prctl; only ``netlink`` and ``nftables`` import pyroute2.
``program`` is the one file to read first: a container's start as data.
"""
