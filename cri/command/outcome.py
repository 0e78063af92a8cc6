"""Run a subcommand and tell how it ended: one line on stderr and an exit status."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

import grpc

from runtime.errors import KerneletError


def of(run: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    """The exit status of *run*; failures of ours and of the daemon are one line, bugs keep their traceback."""
    try:
        return run(options)
    except KerneletError as error:
        message = str(error)
    except grpc.RpcError as error:
        message = _explained(error, options)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read us has seen enough; the interpreter's own flush at exit must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    print(f"kernelet: {message}", file=sys.stderr)
    return 1


def _explained(error: Any, options: argparse.Namespace) -> str:
    """What the daemon said.  RpcError has no methods, but what a channel raises is a grpc.Call as well."""
    if error.code() == grpc.StatusCode.UNAVAILABLE:
        if os.path.exists(options.socket) and not os.access(options.socket, os.W_OK):
            return f"{options.socket} is for root and its group only: use sudo"
        return f"nobody answers on {options.socket}: is the daemon running? ({error.details()})"
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"the daemon behind {options.socket} does not answer: its log says why (journalctl -u kernelet)"
    return str(error.details() or error.code().name)
