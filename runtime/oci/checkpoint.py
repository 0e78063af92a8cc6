"""``checkpoint`` and ``restore``, which this version does not do, and says so: whatever flags they are asked with."""

from __future__ import annotations

from runtime.errors import Unsupported
from runtime.oci.flags import SWITCH, TEXT
from runtime.oci.request import Request

#: runc's flags of both, so that the answer is about the command and not about one of them.
FLAGS = {
    **dict.fromkeys(("image-path", "work-path", "parent-path", "status-fd", "page-server", "manage-cgroups-mode"), TEXT),
    **dict.fromkeys(("empty-ns", "console-socket", "bundle b", "pid-file", "lsm-profile", "lsm-mount-context"), TEXT),
    **dict.fromkeys(("leave-running", "tcp-established", "ext-unix-sk", "shell-job", "lazy-pages", "file-locks"), SWITCH),
    **dict.fromkeys(("pre-dump", "auto-dedup", "detach d", "no-subreaper", "no-pivot"), SWITCH),
    "link-remap": SWITCH,
    "tcp-skip-in-flight": SWITCH,
}
USAGE = "ID (not supported)"


def run(request: Request) -> int:
    raise Unsupported(
        f"{request.command}: not supported: this runtime does not work with CRIU; "
        '"features" says so too (org.opencontainers.runc.checkpoint.enabled)'
    )
