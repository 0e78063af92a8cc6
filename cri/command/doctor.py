"""kernelet doctor: what this kernel and this machine lack, and what each lack costs."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from cri import config, config_files
from cri.command.pages import WIDTH, Page, wrap
from runtime import facilities
from runtime.facilities import Facility

_SIGNS = {True: ("yes", "green"), False: ("no", "red"), None: ("?", "yellow")}


def add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"the daemon's configuration ({config_files.DEFAULT_PATH})")
    parser.add_argument("-a", "--all", action="store_true", help="also what is there")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_doctor(options: argparse.Namespace) -> int:
    """Needs no daemon.  The exit status is 1 when the daemon cannot do its work here at all."""
    found = facilities.look(config.load(options.config).paths)
    fatal = [facility for facility in found if facility.is_needed and facility.has is False]
    if options.json:
        print(json.dumps([dataclasses.asdict(facility) for facility in found], indent=2))
        return 1 if fatal else 0
    page = Page()
    shown = [facility for facility in found if options.all or facility.has is not True]
    width = max((len(facility.name) for facility in shown), default=0)
    for facility in shown:
        _show(page, facility, width)
    there = sum(facility.has is True for facility in found)
    page.line(f"{there} of {len(found)} are there" + ("" if options.all else "; --all shows them"))
    if fatal:
        page.line(page.ink(f"Kernelet cannot work here: {', '.join(facility.name for facility in fatal)}", "red"))
    return 1 if fatal else 0


def _show(page: Page, facility: Facility, width: int) -> None:
    sign, style = _SIGNS[facility.has]
    label = f"{page.ink(f'{sign:<4}', style)}{facility.name:<{width}}  "
    indent = " " * (4 + width + 2)
    texts = [text for text in (facility.found, "" if facility.has else facility.cost) if text] or [""]
    for text in texts:
        for line in wrap(text, WIDTH - len(indent)):
            page.line((label + line).rstrip())
            label = indent
