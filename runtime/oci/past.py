"""What the start of a container did: its report is still there, and the program is composed again from what was found then."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from kernel.fd import open_path
from kernel.report import read_report, report_size
from runtime.container import filter, ground_mounts, init
from runtime.container.facts import Facts
from runtime.container.sketch import names_of
from runtime.errors import NotFound
from runtime.history import StepRecord, in_words, records
from runtime.oci.directory import FACTS, REPORT, open_container
from runtime.oci.home import environment_of

UNKNOWN = "of its start nothing is kept"


def steps_of(root: Path, container_id: str) -> list[StepRecord]:
    """The steps of the container's start, with what became of each.

    Raises ContainerNotFound, or NotFound when nothing is kept.
    """
    with open_container(root, container_id, lock=False) as container:
        spec = container.spec()
        try:
            facts = msgspec.json.decode((container.path / FACTS).read_bytes(), type=Facts)
            report = open_path(container.path / REPORT)
        except FileNotFoundError:
            raise NotFound(f"container {container_id}: {UNKNOWN}") from None
        with report:
            if spec.process is not None:
                with open_path(container.record.rootfs, os.O_PATH | os.O_DIRECTORY) as image:
                    spec.process.env = environment_of(spec.process, image)
            ground_mounts.settle(spec, Path(container.record.bundle), Path(container.record.rootfs))
            program = init.program(f"init of {container_id}", spec, facts, filter.compiled(spec.linux.seccomp))
            count = len(program.all_steps)
            if (container.path / REPORT).stat().st_size != report_size(count):
                raise NotFound(f"container {container_id}: {UNKNOWN} that this version of the runtime could read")
            return records(program, read_report(report, count), in_words(program, names_of(spec, facts)))
