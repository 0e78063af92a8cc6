"""What is asked of a container: a spec that is complete but for what only this node can know.

The runtime fills in, when the container's root is there: ``root``, ``process.user`` (from the
request below and the image's /etc/passwd and /etc/group), the paths of the namespaces to join, the
cgroup, and the files that the sandbox provides.  Stored with the container; fields are added with a
default, never renamed.
"""

from __future__ import annotations

import signal
from typing import Self

import msgspec

from runtime.sandbox.config import Mode
from runtime.spec import schema


class ContainerConfig(msgspec.Struct, kw_only=True):
    """One attempt at a container; (name, attempt) is unique in a sandbox.

    ``image`` is an image id.  ``log_path`` is absolute, or empty for no log.  ``spec.process.env``
    may hold any bytes, as ``os.fsdecode`` spells them.
    """

    name: str
    attempt: int = 0
    image: str
    spec: schema.Spec
    log_path: str = ""
    stdin: bool = False
    #: The first client to attach with stdin closes it for good when it leaves.
    stdin_once: bool = False
    tty: bool = False
    #: Linux's number, sent first when the container is to stop.
    stop_signal: int = signal.SIGTERM
    #: Paths of the host whose files get the label of ``spec.linux.mount_label``.
    relabelled: list[str] = []
    #: It sees the node's cgroups, and may change them: it has no cgroup namespace of its own.
    host_cgroups: bool = False
    pid_mode: Mode = "pod"
    #: The container whose pid namespace to join, with pid_mode "target".
    pid_target: str = ""

    # Who the process is.  A number needs no entry in the image's files, a name must have one.  With
    # neither number nor name the user is root.  The group: the number, else the name, else the
    # passwd entry's, else 0.
    run_as_user: int | None = None
    run_as_username: str = ""
    run_as_group: int | None = None
    run_as_group_name: str = ""
    supplemental_groups: list[int] = []
    #: Leave out the groups that the image's /etc/group gives the user.
    strict_groups: bool = False

    #: The caller's own account of the request; opaque here.
    attachment: bytes = b""

    def is_asked_again_by(self, other: Self) -> bool:
        """Whether *other* is the same request: what it means here may have changed since, with a device or a release of ours."""
        return self.attachment == other.attachment if self.attachment and other.attachment else self == other
