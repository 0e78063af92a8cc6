"""kernelet completion: what a shell needs to complete the command's words, made from the command's own parser.

``python -m cri.command.completion DIRECTORY`` writes all of it, and the manual page, for a package.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

#: The commands whose output completes what a positional argument names, by a word of its metavar.
_NAMES = {"CONTAINER": "ps --all --names", "POD": "pods --names", "IMAGE": "images --names"}


@dataclass(frozen=True, slots=True)
class Option:
    """One option or argument of a subcommand; *count* is argparse's, of an argument that need not be there just once."""

    flags: tuple[str, ...]
    metavar: str
    help: str
    count: str = ""

    @property
    def written(self) -> str:
        """An argument as a usage line has it."""
        return {"?": f"[{self.metavar}]", "+": f"{self.metavar} ..."}.get(self.count, self.metavar)


@dataclass(frozen=True, slots=True)
class Usage:
    """One subcommand, or one of its own ("config check"), as its parser has it."""

    name: str
    summary: str
    options: tuple[Option, ...]
    positionals: tuple[Option, ...]
    nested: tuple[Usage, ...] = field(default=())

    @property
    def flags(self) -> list[str]:
        return [flag for option in self.options for flag in option.flags]

    @property
    def lists(self) -> list[str]:
        """The commands that list what may stand here."""
        metavars = {word for positional in self.positionals for word in positional.metavar.split("|")}
        return [command for word, command in _NAMES.items() if word in metavars]


def add_completion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=sorted(SHELLS), help="the shell that will read it")


def run_completion(options: argparse.Namespace) -> int:
    print(SHELLS[options.shell](usages()), end="")
    return 0


def usages() -> list[Usage]:
    """All subcommands, in the order of the table."""
    from cri.__main__ import parser_of

    return list(usage_of("", "", parser_of()).nested)


def usage_of(name: str, summary: str, parser: argparse.ArgumentParser) -> Usage:
    """What *parser* takes."""
    options: list[Option] = []
    positionals: list[Option] = []
    nested: list[Usage] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            summaries = {choice.dest: choice.help or "" for choice in action._choices_actions}
            nested = [usage_of(each, summaries.get(each, ""), child) for each, child in action.choices.items()]
            continue
        # argparse has its own words for -h, and %(default)s in those of others
        help_ = "print this" if action.dest == "help" else parser._get_formatter()._expand_help(action) if action.help else ""
        metavar = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
        count = action.nargs if isinstance(action.nargs, str) else ""
        known = Option(tuple(action.option_strings), "" if action.nargs == 0 else str(metavar), help_, count)
        (options if action.option_strings else positionals).append(known)
    return Usage(name, summary, tuple(options), tuple(positionals), tuple(nested))


def bash(commands: list[Usage]) -> str:
    """For /usr/share/bash-completion/completions/kernelet."""
    cases = []
    for usage in commands:
        words = " ".join([*usage.flags, *(each.name for each in usage.nested), *_choices(usage)])
        names = "".join(f" $(kernelet {command} 2>/dev/null)" for command in usage.lists)
        cases.append(f'        {usage.name}) words="{words}{names}" ;;')
    return "\n".join(
        [
            "# bash completion for kernelet, made by kernelet completion bash",
            "_kernelet() {",
            "    local cur=${COMP_WORDS[COMP_CWORD]} command= words word",
            '    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do',
            "        case $word in -*) ;; *) command=$word; break ;; esac",
            "    done",
            "    case $command in",
            f'        "") words="--help {" ".join(usage.name for usage in commands)}" ;;',
            *cases,
            "    esac",
            '    COMPREPLY=($(compgen -W "$words" -- "$cur"))',
            "}",
            "complete -o default -F _kernelet kernelet",
            "",
        ]
    )


def zsh(commands: list[Usage]) -> str:
    """For /usr/share/zsh/vendor-completions/_kernelet."""
    lines = ["#compdef kernelet", "# made by kernelet completion zsh", "local -a commands words", "commands=("]
    lines += [f"    {_quoted(f'{usage.name}:{usage.summary}')}" for usage in commands]
    lines += [")", "if (( CURRENT == 2 )); then", "    _describe command commands", "    return", "fi", "case $words[2] in"]
    for usage in commands:
        flags = " ".join(_quoted(f"{flag}:{option.help}") for option in usage.options for flag in option.flags)
        lines += [f"    {usage.name})", f"        words=({flags})", "        _describe option words"]
        if plain := [each.name for each in usage.nested] + _choices(usage):
            lines += [f"        compadd -- {' '.join(plain)}"]
        lines += [f'        compadd -- ${{(f)"$(kernelet {command} 2>/dev/null)"}}' for command in usage.lists]
        lines += ["        _files", "        ;;"]
    return "\n".join([*lines, "esac", ""])


def fish(commands: list[Usage]) -> str:
    """For /usr/share/fish/vendor_completions.d/kernelet.fish."""
    lines = ["# made by kernelet completion fish"]
    for usage in commands:
        lines.append(f"complete -c kernelet -n __fish_use_subcommand -f -a {usage.name} -d {_quoted(usage.summary)}")
        here = f"complete -c kernelet -n '__fish_seen_subcommand_from {usage.name}'"
        for option in usage.options:
            flags = " ".join(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags)
            lines.append(f"{here} {flags}{' -r' if option.metavar else ''} -d {_quoted(option.help)}")
        if plain := [each.name for each in usage.nested] + _choices(usage):
            lines.append(f"{here} -f -a {_quoted(' '.join(plain))}")
        lines += [f"{here} -f -a {_quoted(f'(kernelet {command} 2>/dev/null)')}" for command in usage.lists]
    return "\n".join([*lines, ""])


SHELLS = {"bash": bash, "fish": fish, "zsh": zsh}


def manual(commands: list[Usage], version: str) -> str:
    """The manual page kernelet(1), in man(7)."""
    lines = [
        f'.TH KERNELET 1 "" "kernelet {version}" "User Commands"',
        ".SH NAME",
        "kernelet \\- a Kubernetes container runtime that talks straight to the Linux kernel",
        ".SH SYNOPSIS",
        ".B kernelet",
        ".I COMMAND",
        "[\\fIOPTION\\fR ...] [\\fIARGUMENT\\fR ...]",
        ".SH DESCRIPTION",
        *_DESCRIPTION,
        ".SH COMMANDS",
        *(line for usage in commands for line in _section(usage, f"kernelet {usage.name}")),
        ".SH FILES",
        *_FILES,
        ".SH SEE ALSO",
        ".BR crictl (1),\n.BR systemctl (1),\n.BR journalctl (1)",
        "",
    ]
    return "\n".join(lines)


_DESCRIPTION = (
    'One daemon,\n.BR "kernelet serve" ,\nanswers a kubelet over the CRI; all other commands ask it, or look at the machine.',
    "A container or a pod is named by the beginning of its id, or by its name.",
    "With\n.B \\-\\-json\nwhat is printed is JSON, with the field names of the CRI.",
    "The exit status is 0, 1 for a failure that was told in one line, 2 for wrong usage; of\n.B exec\nthe command's own.",
)
_FILES = (
    ".TP\n.I /etc/kernelet/kernelet.toml\nthe configuration;\n.B kernelet config default\nprints every key with its default",
    ".TP\n.I /etc/kernelet/kernelet.toml.d/*.toml\nwhat it says instead, in the order of the names",
    ".TP\n.I /run/kernelet/kernelet.sock\nwhere a kubelet finds the daemon",
    ".TP\n.I /var/lib/kernelet\nimages, writable layers, the database",
)


def _section(usage: Usage, name: str) -> Iterator[str]:
    if usage.nested:
        for nested in usage.nested:
            yield from _section(nested, f"{name} {nested.name}")
        return
    words = " ".join(f"\\fI{_roff(each.written)}\\fR" for each in usage.positionals)
    yield f".SS {_roff(name)} {words}".rstrip()
    yield _roff(f"{usage.summary}.".capitalize())
    for each in (*usage.positionals, *usage.options):
        if "--help" in each.flags:
            continue
        flags = ", ".join(f"\\fB{_roff(flag)}\\fR" for flag in each.flags)
        metavar = f"\\fI{_roff(each.metavar)}\\fR" if each.metavar else ""
        yield f".TP\n{' '.join(filter(None, (flags, metavar)))}\n{_roff(each.help)}"


def _choices(usage: Usage) -> list[str]:
    return [word for each in usage.positionals if each.metavar.islower() for word in each.metavar.split("|")]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _roff(text: str) -> str:
    """*text* with what roff would act on taken literally."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def write(directory: Path, version: str) -> None:
    """Write what a package installs below *directory*, at the places where Debian's shells and man(1) look."""
    commands = usages()
    files = {
        "usr/share/bash-completion/completions/kernelet": bash(commands),
        "usr/share/zsh/vendor-completions/_kernelet": zsh(commands),
        "usr/share/fish/vendor_completions.d/kernelet.fish": fish(commands),
        "usr/share/man/man1/kernelet.1": manual(commands, version),
    }
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    from cri.status import RUNTIME_VERSION

    write(Path(sys.argv[1]), RUNTIME_VERSION)
