"""Every exception of the runtime has a status of its own, and a message for people."""

from __future__ import annotations

import inspect

import grpc
import pytest

from cri.errors import CODES, code_of, message_of
from kernel.errors import failure
from runtime import errors

ALL = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.KerneletError)]


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind is not errors.KerneletError])
def test_every_class_is_in_the_table_by_itself_or_by_its_family(kind: type[errors.KerneletError]) -> None:
    assert any(family in CODES for family in kind.__mro__)
    assert code_of(kind("x")) is not grpc.StatusCode.INTERNAL


def test_the_table_has_no_class_that_is_gone() -> None:
    assert set(CODES) <= set(ALL)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidSpec("x"), grpc.StatusCode.INVALID_ARGUMENT),
        (errors.ContainerNotFound("x"), grpc.StatusCode.NOT_FOUND),
        # what a mount names is not what the request is about: NOT_FOUND would mean that the pod is gone
        (errors.HostPathNotFound("x"), grpc.StatusCode.FAILED_PRECONDITION),
        (errors.RegistryUnavailable("x"), grpc.StatusCode.UNKNOWN),
        (errors.DigestMismatch("x"), grpc.StatusCode.UNKNOWN),
        (errors.ExecTimedOut("x"), grpc.StatusCode.DEADLINE_EXCEEDED),
        (errors.NetworkFailed("x", 7), grpc.StatusCode.UNKNOWN),
        (errors.MonitorLost("x"), grpc.StatusCode.UNAVAILABLE),
        (KeyError("x"), grpc.StatusCode.INTERNAL),
        (OSError(2, "No such file or directory"), grpc.StatusCode.INTERNAL),
    ],
)
def test_codes(error: Exception, code: grpc.StatusCode) -> None:
    assert code_of(error) is code


def test_messages() -> None:
    assert message_of(errors.StartFailed("step 3: x")) == "step 3: x"
    assert message_of(failure(22, "move_mount", "/data")) == "move_mount: /data: invalid argument"
    assert message_of(OSError(28, "No space left on device")) == "no space left on device"
    assert message_of(ValueError()) == "ValueError"
