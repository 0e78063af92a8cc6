"""kernelet config: what a configuration file says, whether it is right, and what there is to say."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from cri import config, config_files


def add_config(parser: argparse.ArgumentParser) -> None:
    what = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    check = what.add_parser("check", help="read the configuration as the daemon would, and name what is wrong with it")
    check.add_argument("file", nargs="?", type=Path, metavar="FILE", help=f"instead of {config_files.DEFAULT_PATH}")
    default = what.add_parser("default", help="print a file that says what is the default anyway, each key explained")
    for each in (check, default):
        each.add_argument("--json", action="store_true", help="print the values as JSON")


def run_config(options: argparse.Namespace) -> int:
    """Raises InvalidArgument, naming file and key."""
    if options.what == "default":
        print(_as_json(config.Config()) if options.json else config.document(), end="\n" if options.json else "")
        return 0
    chosen = config.load(options.file)
    files = config_files.files(options.file or config_files.DEFAULT_PATH)
    if options.json:
        print(_as_json(chosen))
    else:
        print(
            f"right: {', '.join(map(str, files))}" if files else f"{config_files.DEFAULT_PATH} is not there: all is as by default"
        )
    return 0


def _as_json(chosen: config.Config) -> str:
    return json.dumps(dataclasses.asdict(chosen), indent=2, default=str)
