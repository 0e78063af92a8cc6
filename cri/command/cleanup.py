"""kernelet cleanup: end all pods while no daemon runs.  Containers outlive a daemon; what removes it must end them."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from cri import config, config_files
from runtime import lock
from runtime.errors import KerneletError


def add_cleanup(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"the daemon's configuration ({config_files.DEFAULT_PATH})")
    parser.add_argument("--remove", action="store_true", help="also remove the pods and their containers with all their files")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_cleanup(options: argparse.Namespace) -> int:
    """Prints each pod that it ended.  Raises WrongState while a daemon runs: a kubelet would have them started again."""
    from cri import daemon

    if os.geteuid() != 0:
        raise KerneletError("cleanup ends processes and takes mounts away: run it as root")
    chosen = config.load(options.config)
    if not chosen.paths.database.exists():  # nothing was ever run here, and nothing is to be made now
        return 0
    chosen.paths.prepare()
    with lock.take(chosen.paths.lock):
        node = daemon.make_node(chosen)
        try:
            node.start()
            for sandbox in node.sandboxes():
                (node.remove_sandbox if options.remove else node.stop_sandbox)(sandbox.id)
                name = f"{sandbox.config.namespace}/{sandbox.config.name}"
                print(json.dumps({"id": sandbox.id, "pod": name}) if options.json else name, flush=True)
        finally:
            node.close()
    return 0
