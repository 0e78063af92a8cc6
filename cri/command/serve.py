"""kernelet serve: the daemon."""

from __future__ import annotations

import argparse
import dataclasses
import faulthandler
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

from cri import config, config_files


def add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help=f"the configuration ({config_files.DEFAULT_PATH} if it is there)"
    )
    parser.add_argument("--socket", type=Path, help="where to listen, instead of the configured socket")
    parser.add_argument("-v", "--verbose", action="store_true", help="also log what a kubelet asks every second")


def run_serve(options: argparse.Namespace) -> NoReturn:
    # The daemon's imports are the heaviest there are.
    from cri import daemon

    def read() -> config.Config:
        chosen = config.load(options.config)
        return chosen if options.socket is None else dataclasses.replace(chosen, socket=options.socket.absolute())

    # A daemon that does not answer the watchdog ends by SIGABRT: its log has what each of its threads was doing.
    faulthandler.enable()
    daemon.run(read(), read, verbose=options.verbose)
    # A thread that waits for somebody's process would keep the interpreter from ending; the node is let
    # go of, and all that matters is on the disk.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)
