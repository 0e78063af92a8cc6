"""Is a process number still who it was?  Asked after a descriptor was opened by the number, for numbers are used again."""

from __future__ import annotations

from pathlib import Path

from runtime.container.state import Container


def is_init_of(container: Container) -> bool:
    """Whether the process *container*.pid is one of the container's now; its cgroup has the container's id in its name."""
    try:
        return container.id in Path(f"/proc/{container.pid}/cgroup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
