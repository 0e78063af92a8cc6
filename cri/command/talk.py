"""kernelet exec, attach: talk to what runs in a container."""

from __future__ import annotations

import argparse
import json
import sys

from cri.api import api_pb2 as api
from cri.client import Client, container_status
from cri.command import connection, tables
from runtime.errors import InvalidArgument


def add_exec(parser: argparse.ArgumentParser) -> None:
    connection.add_options(parser)
    parser.add_argument("-i", "--interactive", action="store_true", help="pass standard input on")
    parser.add_argument("-t", "--tty", action="store_true", help="give it a terminal, which is this one")
    parser.add_argument("--timeout", type=int, default=0, metavar="SECONDS", help="kill it after that long")
    parser.add_argument("container", metavar="CONTAINER", help="the beginning of its id, or its name")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND ...", help="the command, without a shell")


def run_exec(options: argparse.Namespace) -> int:
    """The exit status is the command's own.

    With a timeout or as JSON its output comes as a whole (ExecSync), else as it is written.
    """
    from cri.command import session

    is_whole = options.json or options.timeout
    if is_whole and (options.interactive or options.tty):
        raise InvalidArgument("-i and -t go with neither --json nor --timeout: those wait for the whole output")
    session.check_terminal(options.tty)
    words = options.words[1:] if options.words[:1] == ["--"] else options.words
    with connection.connect(options) as client:
        container = connection.find_container(client, options.container)
        if is_whole:
            return _whole(client, options, api.ExecSyncRequest(container_id=container.id, cmd=words, timeout=options.timeout))
        request = api.ExecRequest(
            container_id=container.id,
            cmd=words,
            tty=options.tty,
            stdin=options.interactive,
            stdout=True,
            stderr=not options.tty,
        )
        url = client.call(request, api.ExecResponse).url
    return session.hold(url, session.Wish(options.interactive, options.tty))


def _whole(client: Client, options: argparse.Namespace, request: api.ExecSyncRequest) -> int:
    answer = client.call(request, api.ExecSyncResponse)
    if options.json:
        print(tables.as_json([answer]))
        return 0
    sys.stdout.buffer.write(answer.stdout)
    sys.stdout.flush()
    sys.stderr.buffer.write(answer.stderr)
    return int(answer.exit_code)


def add_attach(parser: argparse.ArgumentParser) -> None:
    connection.add_options(parser)
    parser.add_argument("--no-stdin", action="store_true", help="look on only")
    parser.add_argument("container", metavar="CONTAINER", help="the beginning of its id, or its name")


def run_attach(options: argparse.Namespace) -> int:
    """What it says from now on; ^P ^Q leaves it.  The exit status is the process's own when it ends meanwhile."""
    from cri.command import session

    if options.json:
        raise InvalidArgument("what a container says is no JSON; kernelet logs --json has it")
    with connection.connect(options) as client:
        container = connection.find_container(client, options.container)
        verbose = api.ContainerStatusRequest(container_id=container.id, verbose=True)
        info = json.loads(client.call(verbose, api.ContainerStatusResponse).info["info"])
        has_terminal, takes_stdin = info["tty"], info["stdin"] and not options.no_stdin
        session.check_terminal(has_terminal and takes_stdin)
        request = api.AttachRequest(
            container_id=container.id, tty=has_terminal, stdin=takes_stdin, stdout=True, stderr=not has_terminal
        )
        url = client.call(request, api.AttachResponse).url
        try:
            session.hold(url, session.Wish(takes_stdin, has_terminal and takes_stdin, can_detach=True))
        except session.Detached:
            print("", file=sys.stderr)
            return 0
        return container_status(client, container.id).exit_code
