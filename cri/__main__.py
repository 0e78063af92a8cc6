"""The kernelet command: parse, then one module of command/, imported only when it is asked for."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Collection, Sequence
from types import ModuleType
from typing import NamedTuple


class Command(NamedTuple):
    """A subcommand: ``<module>.add_<name>`` declares its arguments, ``<module>.run_<name>`` runs it."""

    module: str
    summary: str


COMMANDS = {
    "serve": Command("cri.command.serve", "answer a kubelet (run the daemon)"),
    "demo": Command("cri.command.demo", "show it: a pod with a container on this machine, and how it was made"),
    "doctor": Command("cri.command.doctor", "say what this kernel and machine lack, and what that costs"),
    "config": Command("cri.command.configuration", "check a configuration, or print the default one"),
    "pods": Command("cri.command.show", "list pods"),
    "ps": Command("cri.command.show", "list containers"),
    "inspect": Command("cri.command.inspection", "print all that is known of containers, pods or images, as JSON"),
    "logs": Command("cri.command.logs", "print what a container wrote"),
    "stats": Command("cri.command.watching", "show what containers or pods use, again and again"),
    "events": Command("cri.command.watching", "print what happens to pods and containers, as it happens"),
    "exec": Command("cri.command.talk", "run a command in a container"),
    "attach": Command("cri.command.talk", "talk to a container's own process"),
    "stop": Command("cri.command.act", "stop containers or pods"),
    "rm": Command("cri.command.act", "remove containers or pods"),
    "images": Command("cri.command.show", "list images"),
    "pull": Command("cri.command.act", "bring an image to this node"),
    "rmi": Command("cri.command.act", "remove images"),
    "plan": Command("cri.command.plan", "show the system calls that would make a container of a bundle"),
    "step": Command("cri.command.step", "make a container of a bundle one system call at a time, and show what changes"),
    "explain": Command("cri.command.explain", "show the system calls that made a container, with their times"),
    "version": Command("cri.command.show", "print versions of command and daemon"),
    "cleanup": Command("cri.command.cleanup", "end all pods of this machine while no daemon runs, as before a removal"),
    "completion": Command("cri.command.completion", "print a shell's completions of this command"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit status: 0, 1 for a failure that was told, 2 for wrong usage."""
    # gRPC would otherwise hold its threads up before every start of a process; nothing here forks.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    words = sys.argv[1:] if arguments is None else list(arguments)
    wanted = next((word for word in words if not word.startswith("-")), "")
    options = parser_of({wanted}).parse_args(words)
    # Only now: what this imports takes a tenth of a second, and "kernelet --help" has no use for it.
    from cri.command import outcome

    return outcome.of(getattr(_module(options.command), f"run_{options.command}"), options)


def parser_of(wanted: Collection[str] = tuple(COMMANDS)) -> argparse.ArgumentParser:
    """The command's parser, with the arguments of the *wanted* subcommands only: each costs an import."""
    parser = argparse.ArgumentParser(prog="kernelet", description="A Kubernetes container runtime in Python.")
    choices = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        subparser = choices.add_parser(name, help=command.summary, description=f"{command.summary}.".capitalize())
        if name in wanted:
            getattr(_module(name), f"add_{name}")(subparser)
    return parser


def _module(name: str) -> ModuleType:
    return importlib.import_module(COMMANDS[name].module)


if __name__ == "__main__":
    sys.exit(main())
