"""The kernelet command: parse, then one module of command/, imported only when it is asked for."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple


class Command(NamedTuple):
    """A subcommand: ``<module>.add_<name>`` declares its arguments, ``<module>.run_<name>`` runs it."""

    module: str
    summary: str


COMMANDS = {
    "serve": Command("cri.command.serve", "answer a kubelet (run the daemon)"),
    "demo": Command("cri.command.demo", "show it: a pod with a container on this machine, and how it was made"),
    "pods": Command("cri.command.show", "list pods"),
    "ps": Command("cri.command.show", "list containers"),
    "logs": Command("cri.command.logs", "print what a container wrote"),
    "exec": Command("cri.command.act", "run a command in a container"),
    "plan": Command("cri.command.plan", "show the system calls that would make a container of a bundle"),
    "step": Command("cri.command.step", "make a container of a bundle one system call at a time, and show what changes"),
    "explain": Command("cri.command.explain", "show the system calls that made a container, with their times"),
    "stop": Command("cri.command.act", "stop containers or pods"),
    "rm": Command("cri.command.act", "remove containers or pods"),
    "images": Command("cri.command.show", "list images"),
    "pull": Command("cri.command.act", "bring an image to this node"),
    "version": Command("cri.command.show", "print versions of command and daemon"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit status: 0, 1 for a failure that was told, 2 for wrong usage."""
    # gRPC would otherwise hold its threads up before every start of a process; nothing here forks.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(prog="kernelet", description="A Kubernetes container runtime in Python.")
    choices = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    wanted = next((word for word in words if not word.startswith("-")), "")
    module = importlib.import_module(COMMANDS[wanted].module) if wanted in COMMANDS else None
    for name, command in COMMANDS.items():
        subparser = choices.add_parser(name, help=command.summary, description=f"{command.summary}.".capitalize())
        if name == wanted:
            getattr(module, f"add_{name}")(subparser)
    options = parser.parse_args(words)
    # Only now: what this imports takes a tenth of a second, and "kernelet --help" has no use for it.
    from cri.command import outcome

    return outcome.of(getattr(module, f"run_{options.command}"), options)


if __name__ == "__main__":
    sys.exit(main())
