"""Exception class to gRPC status, in one table.

A kubelet looks at few codes: NOT_FOUND means that the object is gone, DEADLINE_EXCEEDED of ExecSync
that the probe timed out, UNAVAILABLE that a container may well be running still, UNIMPLEMENTED that
it should do without.  Nothing else may come out as one of these.
"""

from __future__ import annotations

import grpc

from kernel.errors import call_of
from runtime import errors

#: The nearest class in an exception's ancestry counts.
CODES: dict[type[Exception], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    # A path that a mount names is not the object that the request is about.
    errors.HostPathNotFound: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NotReady: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unsupported: grpc.StatusCode.UNIMPLEMENTED,
    errors.TooMany: grpc.StatusCode.RESOURCE_EXHAUSTED,
    # A kubelet strips UNKNOWN to its bare message and looks at how that begins: "RegistryUnavailable: ...".
    errors.ImagePullFailed: grpc.StatusCode.UNKNOWN,
    errors.UnitFailed: grpc.StatusCode.UNAVAILABLE,
    errors.StartFailed: grpc.StatusCode.UNKNOWN,
    errors.NetworkFailed: grpc.StatusCode.UNKNOWN,
    errors.TimedOut: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Cancelled: grpc.StatusCode.CANCELLED,
    errors.MonitorLost: grpc.StatusCode.UNAVAILABLE,
}


def code_of(error: Exception) -> grpc.StatusCode:
    """The status code of *error*; INTERNAL for what is nobody's expected failure."""
    for kind in type(error).__mro__:
        if kind in CODES:
            return CODES[kind]
    return grpc.StatusCode.INTERNAL


def message_of(error: Exception) -> str:
    """The text for people: of an OSError the call, the path and what the kernel said."""
    if isinstance(error, OSError) and error.strerror:
        parts = (call_of(error), None if error.filename is None else str(error.filename), error.strerror.lower())
        return ": ".join(part for part in parts if part)
    return str(error) or type(error).__name__
