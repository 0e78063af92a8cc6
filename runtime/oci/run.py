"""``run``: create and start; without --detach, wait for the end, delete, and exit as the container did."""

from __future__ import annotations

from kernel.process import adopt_orphans, open_pidfd
from runtime.oci import create as create_module
from runtime.oci.console import Relay
from runtime.oci.create import create
from runtime.oci.delete import destroy
from runtime.oci.flags import SWITCH
from runtime.oci.request import Request
from runtime.oci.start import start
from runtime.oci.wait import Waiting

FLAGS = {**create_module.FLAGS, "detach d": SWITCH, "keep": SWITCH, "no-subreaper": SWITCH}
USAGE = "[--bundle DIR] [--detach] [--keep] ID"


def run(request: Request) -> int:
    request.check_count(1)
    detached = request.flags.switch("detach")
    if not (detached or request.flags.switch("no-subreaper")):
        adopt_orphans()
    with create(request, detached=detached) as created:
        container = created.container
        try:
            if detached:
                start(container)
                return 0
            with Waiting() as waiting, open_pidfd(container.record.pid) as pidfd, Relay(created.terminal) as relay:
                created.close_ground()
                start(container)
                container.unlock()
                code = waiting.wait(container.record.pid, pidfd, relay)
        except BaseException:
            if container.lock_again():
                destroy(container)
            raise
        if container.lock_again() and not request.flags.switch("keep"):
            for warning in destroy(container):
                request.log.warning(warning)
        return code
