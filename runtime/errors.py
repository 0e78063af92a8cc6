"""Every exception of ours, by what is wrong.

KerneletError
├── InvalidArgument          the request can never work as it is written
│   ├── InvalidSpec          an OCI or CRI field, named
│   └── InvalidReference     an image reference
├── NotFound                 ContainerNotFound, SandboxNotFound, ImageNotFound, HostPathNotFound
├── NotReady                 not in a state for this: SandboxNotReady, ContainerNotRunning, WrongState, AddressesExhausted,
│                            PortUnreachable: nobody listens there
├── TooMany                  of something at once; later there may be fewer
├── Unsupported              this node's kernel or this version lacks it: ControllerMissing
├── ImagePullFailed          RegistryUnavailable, RegistryRefused, DigestMismatch, LayerRefused
├── UnitFailed               systemd, which makes the node's cgroups, refused; what it said
├── StartFailed              a step of a program failed; the step, errno and reason are in it
│   └── HookFailed           a program of the node's that the spec asks for; which, and what it said
├── NetworkFailed            a plugin of the cluster's network (CNI) failed; which, its code and what it said
├── TimedOut                 ExecTimedOut
├── Cancelled                the caller gave up
└── MonitorLost              the monitor went away in the middle of a request

A message is written for the person who reads it in ``kubectl describe``: lower case, outermost
action first, each name once, the likely fix last.
"""

from __future__ import annotations


class KerneletError(Exception):
    """The root of the tree; ``str(error)`` is the message for people."""


class InvalidArgument(KerneletError):
    pass


class InvalidSpec(InvalidArgument):
    pass


class InvalidReference(InvalidArgument):
    pass


class NotFound(KerneletError):
    pass


class ContainerNotFound(NotFound):
    pass


class SandboxNotFound(NotFound):
    pass


class ImageNotFound(NotFound):
    pass


class HostPathNotFound(NotFound):
    pass


class NotReady(KerneletError):
    pass


class SandboxNotReady(NotReady):
    pass


class ContainerNotRunning(NotReady):
    pass


class WrongState(NotReady):
    pass


class AddressesExhausted(NotReady):
    pass


class PortUnreachable(NotReady):
    pass


class TooMany(KerneletError):
    pass


class Unsupported(KerneletError):
    pass


class ControllerMissing(Unsupported):
    pass


class ImagePullFailed(KerneletError):
    pass


class RegistryUnavailable(ImagePullFailed):
    """The message starts with "RegistryUnavailable: ", the prefix by which a kubelet knows it."""


class RegistryRefused(ImagePullFailed):
    pass


class DigestMismatch(ImagePullFailed):
    pass


class LayerRefused(ImagePullFailed):
    pass


class UnitFailed(KerneletError):
    pass


class StartFailed(KerneletError):
    pass


class HookFailed(StartFailed):
    pass


class NetworkFailed(KerneletError):
    """*code* is the CNI specification's, or 0."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class TimedOut(KerneletError):
    pass


class ExecTimedOut(TimedOut):
    pass


class Cancelled(KerneletError):
    pass


class MonitorLost(KerneletError):
    pass
