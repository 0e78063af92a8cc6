"""The CRI as its descriptor has it: what client and server must agree on."""

from __future__ import annotations

from cri.api import api_pb2 as api

RUNTIME = api.DESCRIPTOR.services_by_name["RuntimeService"]
IMAGE = api.DESCRIPTOR.services_by_name["ImageService"]

#: What a kubelet sends and reads at most.
MESSAGE_LIMIT_BYTES = 16 << 20
