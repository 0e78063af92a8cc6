"""``state``: what a container is now, as JSON."""

from __future__ import annotations

import sys

import msgspec

from runtime.oci.request import Request

FLAGS: dict[str, str] = {}
USAGE = "ID"


def run(request: Request) -> int:
    request.check_count(1)
    with request.container(lock=False) as container:
        content = msgspec.json.format(msgspec.json.encode(container.as_state()), indent=2)
    sys.stdout.write(content.decode() + "\n")
    return 0
