"""``python -m tests.conformance``: the CRI's own conformance suite against our daemon.

Runs the unmodified critest (``critest/`` has its version; make builds it to build/critest) in a node of its own,
prints a table and writes build/conformance.json: the specs that passed, and those that failed or were skipped, with the
reason.  With --nodes so many of it run at once, as the CI of other runtimes does, by the build/ginkgo of its version.
Streams go over SPDY, as a kubelet's do; with --transport websocket they go over WebSockets, and the verdict is in
build/conformance-websocket.json.

With --guest in a virtual machine, whose kernel has what this machine's may lack: the specs about memory, figures and
AppArmor, unless --focus says others; the report is build/conformance-guest.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from kernel.cgroup import Cgroup, find_tree
from runtime.paths import Paths
from tests.conformance import images
from tests.conformance.report import Report, load
from tests.support.daemon import Daemon
from tests.support.isolation import Run, isolated
from tests.support.registry import docker_registry

BUILD = Path(__file__).resolve().parents[2] / "build"
CRITEST = BUILD / "critest"
#: What has critest stream otherwise than over SPDY, and where the verdict is then.
TRANSPORTS = {"spdy": [], "websocket": ["-websocket-exec", "-websocket-attach", "-websocket-portforward"]}
OUTPUTS = {"spdy": BUILD / "conformance.json", "websocket": BUILD / "conformance-websocket.json"}
#: What critest and the daemon said, and what is worth keeping between runs.
WORK = BUILD / "conformance"

#: What is not run, by a part of its name, and why.
NOT_RUN = {"public image with digest": "the spec names a digest, and what it is the digest of cannot be made here"}
#: What needs a cgroup controller, by a part of its name, and which.
NEEDS = {"OOMKilled": "memory"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__.splitlines()[0])
    parser.add_argument("--focus", metavar="RE", help="only the specs whose full name matches")
    parser.add_argument("--nodes", metavar="N", type=int, default=1, help="so many specs at once")
    parser.add_argument("--transport", choices=TRANSPORTS, default="spdy", help="what exec, attach and port-forward go over")
    parser.add_argument("--guest", action="store_true", help="in a virtual machine: what needs controllers, or AppArmor")
    parser.add_argument("--store", metavar="DIR", type=Path, help="a registry's store that has the images already")
    options = parser.parse_args()
    output = OUTPUTS[options.transport]
    if not CRITEST.exists():
        sys.exit(f"{CRITEST} is not there: make conformance builds it (with Go)")
    WORK.mkdir(parents=True, exist_ok=True)
    if options.guest:
        from tests.conformance.guest import in_a_guest

        sys.exit(in_a_guest(options.focus))
    if options.store is None:
        images.fetch(WORK)  # the node of our own has no way out
    with isolated() as run:
        report = measured(run, options.focus, options.nodes, options.transport, options.store)
    output.write_text(json.dumps(report.document(), indent=1) + "\n")
    print(report.table())
    print(f"\nwritten to {output}; what was said: {WORK}/critest.log and daemon.log")
    sys.exit(1 if report.failed else 0)


def measured(run: Run, focus: str | None, nodes: int, transport: str, store: Path | None = None) -> Report:
    """critest's verdict on a daemon of this run."""
    paths = Paths(root_dir=run.directory / "root", run_dir=run.directory / "run")
    paths.prepare()
    with docker_registry(store=store) as address:
        if store is None:
            images.push_all(address, WORK)
        daemon = Daemon(paths, run, registry=address)
        daemon.start()
        try:
            return _judged(run, paths.socket, focus, nodes, transport)
        finally:
            daemon.stop()
            shutil.copy(daemon.log, WORK / "daemon.log")


def not_run() -> dict[str, str]:
    """What is not run on this host."""
    there = Cgroup(find_tree()).controllers()
    missing = {part: controller for part, controller in NEEDS.items() if controller not in there}
    return NOT_RUN | {
        part: f"needs the controller {controller}, which this host's cgroup v2 tree does not have; a guest has it"
        for part, controller in missing.items()
    }


def _judged(run: Run, socket: Path, focus: str | None, nodes: int, transport: str) -> Report:
    """Run critest once against the daemon at *socket*."""
    temporary, verdict = run.directory / "tmp", run.directory / "critest.json"
    temporary.mkdir()
    command = [CRITEST, f"-runtime-endpoint=unix://{socket}", "-ginkgo.v", "-ginkgo.no-color", "-ginkgo.randomize-all"]
    left_out = not_run()
    command += [f"-ginkgo.json-report={verdict}", f"-ginkgo.skip={'|'.join(left_out)}", "-ginkgo.timeout=1h", "-test.timeout=0"]
    command += TRANSPORTS[transport]
    if focus:
        command.append(f"-ginkgo.focus={focus}")
    if nodes > 1:  # ginkgo objects to the flag itself
        command.append(f"-parallel={nodes}")
    with (WORK / "critest.log").open("wb") as log:
        # Its own directory: a crictl.yaml where it stands would be read.
        environment = {**os.environ, "TMPDIR": str(temporary), "PATH": f"{BUILD}:{os.environ['PATH']}"}
        subprocess.run(command, check=False, cwd=temporary, env=environment, stdout=log, stderr=log)
    if not verdict.exists():
        sys.exit(f"critest gave no verdict; it said: {(WORK / 'critest.log').read_text()[-3000:]}")
    return load(verdict, {} if focus else left_out)


if __name__ == "__main__":
    main()
