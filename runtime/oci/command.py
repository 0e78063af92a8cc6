"""The command line: global flags, then one module for the command.  See the package's docstring."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from runtime.errors import InvalidArgument, KerneletError
from runtime.oci.flags import LIST, SWITCH, TEXT, Parsed, Table, parse
from runtime.oci.lean import give_back
from runtime.oci.log import Log
from runtime.oci.request import Request

VERSION = "0.1.0"
SPEC = "1.3.0"
FLAGS = {
    "root": TEXT,
    "log": TEXT,
    "log-format": TEXT,
    "debug": SWITCH,
    "systemd-cgroup": SWITCH,
    "cgroup-manager": TEXT,
    "rootless": TEXT,
    "version v": SWITCH,
    "help h": SWITCH,
}
COMMANDS = (
    *("create", "start", "run", "state", "kill", "delete", "exec", "ps", "list"),
    *("pause", "resume", "update", "events", "spec", "features", "checkpoint", "restore"),
)
#: After the container's ID these take what is no flag of ours.
TAKES_WORDS = ("exec", "ps")
#: resume and restore live with their counterparts.
MODULES = {"resume": "pause", "restore": "checkpoint"}
ABOUT = f"kernelet-oci: runs containers as version {SPEC} of the OCI runtime specification describes them"
#: What a flag of each kind is followed by, in a help text.
TAKEN = {SWITCH: "", TEXT: " VALUE", LIST: " VALUE (may be repeated)"}
DEFAULT_ROOT = "/run/kernelet-oci"


def main(words: list[str] | None = None) -> int:
    """Do what *words* (the process's arguments) say; returns the exit code."""
    open_missing_streams()
    log = Log()
    try:
        given = parse(FLAGS, sys.argv[1:] if words is None else words, mixed=False)
        log = Log(given.text("log"), _log_format(given), debug=given.switch("debug"))
        if given.switch("version"):
            sys.stdout.write(f"kernelet-oci version {VERSION}\ncommit: {VERSION}\nspec: {SPEC}\n")
            return 0
        if given.switch("help") or not given.arguments:
            sys.stdout.write(
                help_of(
                    "kernelet-oci", ABOUT, f"[FLAGS] COMMAND [FLAGS] [ARGUMENTS]\n\nCOMMANDS:\n   {', '.join(COMMANDS)}", FLAGS
                )
            )
            return 0
        return perform(given, log)
    except (KerneletError, OSError) as error:
        log.error(describe(error))
    except Exception as error:  # whoever started us reads the log, not a traceback
        log.error(f"a fault of kernelet-oci itself: {type(error).__name__}: {error}; --debug shows where")
        if log.shows_debug:
            raise
    return 1


def perform(given: Parsed, log: Log) -> int:
    """Import the command's module and run it."""
    command, *words = given.arguments
    if command not in COMMANDS:
        raise InvalidArgument(f"No help topic for '{command}': no such command; there are {', '.join(COMMANDS)}")
    from importlib import import_module

    module = import_module(f"runtime.oci.{MODULES.get(command, command)}")
    give_back()
    flags = parse({**module.FLAGS, "help h": SWITCH}, words, mixed=command not in TAKES_WORDS)
    if flags.switch("help"):
        sys.stdout.write(help_of(f"kernelet-oci {command}", module.__doc__ or "", module.USAGE, module.FLAGS))
        return 0
    log.debug(f"{command}: containers are remembered in {find_root(given)}")
    systemd = given.switch("systemd-cgroup") or given.text("cgroup-manager") == "systemd"
    request = Request(command, find_root(given), log, flags, systemd=systemd)
    return int(module.run(request))


def find_root(given: Parsed | None = None) -> Path:
    """Where containers are remembered: --root, or a directory of the user's that does not survive a reboot."""
    if given is not None and given.has("root"):
        return Path(os.path.abspath(given.text("root")))
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.geteuid() != 0 and runtime_dir:
        return Path(runtime_dir) / "kernelet-oci"
    return Path(DEFAULT_ROOT)


def open_missing_streams() -> None:
    """Open the null device for those of the three streams that are closed: no file of ours may get their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def describe(error: BaseException) -> str:
    """The message for people, in one line."""
    if isinstance(error, OSError) and error.strerror:
        call = next((note for note in getattr(error, "__notes__", ())), "")
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror.lower()}" + (f" ({call})" if call else "")
    return str(error)


def help_of(name: str, about: str, usage: str, flags: Table) -> str:
    """What -h says of a command, or of all."""
    sentence = about.partition("\n")[0].rstrip(".").replace("`", "")
    if sentence.startswith(f"{name.rsplit(maxsplit=1)[-1]}: "):
        sentence = sentence.partition(": ")[2]
    shown = (
        "   " + ", ".join(f"--{each}" if len(each) > 1 else f"-{each}" for each in names.split()) + TAKEN[kind]
        for names, kind in flags.items()
    )
    return f"NAME:\n   {name} - {sentence}\n\nUSAGE:\n   {name} {usage}\n\nFLAGS:\n" + "\n".join(shown) + "\n"


def _log_format(given: Parsed) -> str:
    form = given.text("log-format", "text")
    if form not in ("text", "json"):
        raise InvalidArgument(f'--log-format "{form}": must be text or json')
    return form
