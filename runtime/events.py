"""What happens to sandboxes and containers, for those who want to know: told in the order in which it becomes visible.

```
    sandbox     created, started ──> stopped ──> deleted       its id is the pod's
    container   created ──> started ──> stopped ──> deleted    a start that failed is stopped without having started
```

A change comes with the records as they are then, so that nobody has to ask, and gets another answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from runtime.container.state import Container
from runtime.sandbox.state import Sandbox


class Kind(StrEnum):
    CREATED = "created"
    STARTED = "started"
    STOPPED = "stopped"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Change:
    """*id* is the container's, or the sandbox's own; *containers* are all that the sandbox has now."""

    kind: Kind
    id: str
    at_ns: int
    sandbox: Sandbox | None
    containers: tuple[Container, ...]


#: Called in the thread that makes the change and while all others wait: it hands the change on and returns.
Listener = Callable[[Change], None]
