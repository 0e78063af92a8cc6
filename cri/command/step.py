"""kernelet step: make a container one system call at a time, and see what each of them changes."""

from __future__ import annotations

import argparse
import errno
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from cri.command.pages import Page
from runtime.container.observation import Change, Observation, changes
from runtime.container.plan import PlannedStep
from runtime.errors import StartFailed
from runtime.oci.stepping import Made, Stepping, open_stepping

HELP = """\
  enter      make the next step                 s          show the whole state of the process
  n N        make N steps                       l          list the headings
  g HEADING  go to where a heading begins       c          go on to the end
  b CALL     go to the next such system call    q          quit, and leave nothing behind
"""
#: What is not worth a line at every step.
_QUIET = {"name", "exe"}


def add_step(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="CONFIG.json|BUNDLE", help="an OCI bundle, or its config.json")
    parser.add_argument("-a", "--all", action="store_true", help="make all steps without asking")


def run_step(options: argparse.Namespace) -> int:
    """Asks on standard input what to do, a command a line; its end is "q".  The exit code is the program's, if it ran."""
    page = Page()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    with open_stepping(options.bundle) as stepping:
        session = _Session(stepping, page)
        session.introduce()
        try:
            session.walk(iter(["c"]) if options.all else _commands(page, session.prompt))
        except StartFailed as error:
            page.line(page.ink(f"\n{error}", "red"))
            return 1
        if stepping.at is not None:
            page.line("\nnothing is left of it")
            return 0
        page.line(page.ink("\nthe container runs: what follows is its program's own", "bold"))
        page.stream.flush()
        code = stepping.wait()
    page.line(page.ink(f"it ended with exit code {code}; nothing is left of it", "bold"))
    return code


def _leave(number: int, _: object) -> NoReturn:
    """As at the end of input: what was made is undone on the way out."""
    raise SystemExit(128 + number)


def _commands(page: Page, prompt: Callable[[], str]) -> Iterator[str]:
    """The lines of standard input; a prompt before each when a person types them."""
    asks = sys.stdin.isatty()
    while True:
        if asks:
            print(prompt(), end="", file=page.stream, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        yield line.strip()


class _Session:
    def __init__(self, stepping: Stepping, page: Page) -> None:
        self._stepping, self._page = stepping, page
        self._steps = stepping.plan.steps
        self._seen: Observation | None = stepping.observe()
        self._heading = ""

    def introduce(self) -> None:
        page = self._page
        page.line(f"{page.ink(self._stepping.plan.title, 'bold')}: {len(self._steps)} steps, none of them made yet")
        page.line(page.ink('Enter makes the next one, "?" says what else there is.', "dim"))

    def prompt(self) -> str:
        at = self._stepping.at
        assert at is not None
        step = self._steps[at]
        return f"\n{self._page.ink(f'next: {step.number} of {len(self._steps)}, {step.call}', 'cyan')} > "

    def walk(self, commands: Iterator[str]) -> None:
        """Do what the commands say until the program runs, or they end."""
        for command in commands:
            word, _, rest = command.partition(" ")
            if word == "q" or not self._obey(word, rest.strip()) or self._stepping.at is None:
                return

    def _obey(self, word: str, rest: str) -> bool:
        """Do one command; False when there is nothing left to do."""
        if word == "s":
            self._show_state()
        elif word == "l":
            for title, steps in self._stepping.plan.sections():
                self._page.line(f"{steps[0].number:4}  {title}")
        elif (goal := self._goal(word, rest)) is not None:
            while self._stepping.at is not None and self._stepping.at < goal:
                self._make()
        else:
            self._page.line(HELP.rstrip())
        return self._stepping.at is not None

    def _goal(self, word: str, rest: str) -> int | None:
        """The index of the step before which to stop; None for what is no command, or leads nowhere."""
        at = self._stepping.at
        assert at is not None
        later = self._steps[at + 1 :]
        match word:
            case "":
                return at + 1
            case "c":
                return len(self._steps)
            case "n":
                return at + int(rest) if rest.isdigit() else None
            case "g":
                begins = [step.number - 1 for step in later if step.heading.startswith(rest) and self._begins(step)]
            case "b":
                begins = [step.number - 1 for step in later if step.call == rest]
            case _:
                return None
        if not rest or not begins:
            self._page.line(f"no further {'heading' if word == 'g' else 'call'} {rest!r} ahead")
            return at
        return begins[0]

    def _begins(self, step: PlannedStep) -> bool:
        return step.number == 1 or self._steps[step.number - 2].heading != step.heading

    def _make(self) -> None:
        """Make the next step, and show it with what it changed."""
        page, at = self._page, self._stepping.at
        assert at is not None
        step = self._steps[at]
        if step.heading != self._heading:
            self._heading = step.heading
            page.heading(step.heading)
        page.step(f"{step.number:4}  ", step.text, step.why)
        page.stream.flush()  # the container writes to the same place
        made = self._stepping.advance()
        page.line("      " + page.ink(_answer(step, made), "cyan"))
        seen = self._stepping.observe()
        if seen is not None and self._seen is not None:
            for change in changes(self._seen, seen):
                if change.name not in _QUIET:
                    self._show_change(step, change)
        self._seen = seen or self._seen

    def _show_change(self, step: PlannedStep, change: Change) -> None:
        label, name = f"      {change.table:<13}", self._short(change.name)
        before, after = self._short(change.before or ""), self._short(change.after or "")
        item = self._page.item
        if change.table == "mounts":
            name, before, after = "", before.replace("  ", " ", 1), after.replace("  ", " ", 1)
        if change.before is None:
            item(f"{label}+ ", f"{name} {after}".strip(), "green")
        elif change.after is None:
            item(f"{label}- ", f"{name} {before}".strip(), "red")
        elif change.table == "namespaces":
            how = "new" if step.call in ("clone3", "unshare") else "entered"
            item(f"{label}~ ", f"{name} {before} -> {after}, {how}", "yellow")
        elif change.table != "descriptors" or before.replace("<root>/", "/").replace("<root>", "/") != after:
            item(f"{label}~ ", f"{name} {_difference(before, after)}".strip(), "yellow")

    def _short(self, text: str) -> str:
        return text.replace(self._stepping.attach_point, "<root>")

    def _show_state(self) -> None:
        seen = self._stepping.observe()
        for table, rows in ({} if seen is None else seen.tables()).items():
            self._page.heading(table)
            width = max(map(len, rows), default=0)
            for name, value in rows.items():
                self._page.step(f"      {name:<{width}}  ", value)


def _answer(step: PlannedStep, made: Made) -> str:
    """What the kernel said."""
    if made.is_skipped:
        return "skipped: what it needs is not there"
    if step.call == "execve" and made.result == 0:
        return "= the process is another program now"
    if -4096 < made.result < 0:
        name = errno.errorcode.get(-made.result, str(-made.result))
        return f"= {name}, which is fine here"
    return f"= {made.result}"


def _difference(before: str, after: str) -> str:
    """From *before* to *after*: of two sets what was taken away and what was added, of two mounts the part that differs."""
    if "|" in before and ("|" in after or after == "none"):
        old, new = before.split("|"), [] if after == "none" else after.split("|")
        return " ".join([f"-{name}" for name in old if name not in new] + [f"+{name}" for name in new if name not in old])
    place, _, rest = before.partition(" ")
    other, _, same = after.partition(" ")
    return f"{place} -> {other} {rest}" if rest and rest == same else f"{before} -> {after}"
