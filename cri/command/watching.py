"""kernelet stats, events: what goes on, as it goes on."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import grpc

from cri.api import api_pb2 as api
from cri.client import Client
from cri.command import connection, tables

#: What a rate is measured over, and a screen is shown for.
INTERVAL_SECONDS = 2.0
#: Home, and what is below it erased: a screen that does not flicker.
_HOME, _REST = "\x1b[H", "\x1b[J"
_NONE = "-"


def add_stats(parser: argparse.ArgumentParser) -> None:
    connection.add_options(parser)
    parser.add_argument("--pods", action="store_true", help="of pods, with their networks")
    parser.add_argument("--no-stream", action="store_true", help="print once")
    parser.add_argument(
        "-i", "--interval", type=float, default=INTERVAL_SECONDS, metavar="SECONDS", help="between two looks (%(default)s)"
    )
    parser.add_argument(
        "thing", nargs="?", default="", metavar="CONTAINER|POD", help="only this one; a pod's containers for a pod"
    )


def run_stats(options: argparse.Namespace) -> int:
    """Until interrupted; JSON is one list a look, on one line."""
    is_screen = tables.is_screen() and not options.no_stream and not options.json
    with connection.connect(options) as client:
        names: dict[str, str] = {}
        while True:
            found = _look(client, options)
            if options.json:
                print(tables.as_json(found, indent=None), flush=True)
            else:
                names |= {pod.id: f"{pod.metadata.namespace}/{pod.metadata.name}" for pod in _pods(client)}
                text = _pod_table(found) if options.pods else _container_table(found, _places(client, names))
                print(f"{_HOME}{text}\n{_REST}" if is_screen else text, end="" if is_screen else "\n", flush=True)
            if options.no_stream:
                return 0
            time.sleep(options.interval)


def _look(client: Client, options: argparse.Namespace) -> Sequence[Any]:
    """Statistics of what was asked for."""
    thing = connection.find(client, options.thing) if options.thing else None
    of_pod = thing.id if thing is not None and thing.kind == "pod" else ""
    if options.pods:
        pods = api.ListPodSandboxStatsRequest(filter=api.PodSandboxStatsFilter(id=of_pod))
        return client.call(pods, api.ListPodSandboxStatsResponse).stats
    of_container = thing.id if thing is not None and thing.kind == "container" else ""
    wish = api.ContainerStatsFilter(id=of_container, pod_sandbox_id=of_pod)
    return client.call(api.ListContainerStatsRequest(filter=wish), api.ListContainerStatsResponse).stats


def _pods(client: Client) -> Sequence[Any]:
    return client.call(api.ListPodSandboxRequest(), api.ListPodSandboxResponse).items


def _places(client: Client, names: dict[str, str]) -> dict[str, str]:
    """The pod of each container, as a person names it."""
    containers = client.call(api.ListContainersRequest(), api.ListContainersResponse).containers
    return {each.id: names.get(each.pod_sandbox_id, each.pod_sandbox_id[: tables.SHORT_ID]) for each in containers}


def _container_table(found: Sequence[Any], places: dict[str, str]) -> str:
    rows = [
        (
            stats.attributes.id[: tables.SHORT_ID],
            stats.attributes.metadata.name,
            places.get(stats.attributes.id, _NONE),
            _cores(stats.cpu),
            *_memory(stats.memory),
            _size(stats.swap.swap_usage_bytes) if stats.HasField("swap") else _NONE,
            _size(stats.writable_layer.used_bytes) if stats.HasField("writable_layer") else _NONE,
        )
        for stats in found
    ]
    return tables.table(
        ("CONTAINER", "NAME", "POD", "CPU", "MEMORY", "LIMIT", "SWAP", "WRITTEN"), sorted(rows, key=lambda row: row[2])
    )


def _pod_table(found: Sequence[Any]) -> str:
    rows = [
        (
            stats.attributes.id[: tables.SHORT_ID],
            f"{stats.attributes.metadata.namespace}/{stats.attributes.metadata.name}",
            _cores(stats.linux.cpu),
            _memory(stats.linux.memory)[0],
            _size(stats.linux.network.default_interface.rx_bytes) if stats.linux.HasField("network") else _NONE,
            _size(stats.linux.network.default_interface.tx_bytes) if stats.linux.HasField("network") else _NONE,
            str(stats.linux.process.process_count.value) if stats.linux.HasField("process") else _NONE,
            str(len(stats.linux.containers)),
        )
        for stats in found
    ]
    headings = ("POD", "NAME", "CPU", "MEMORY", "RECEIVED", "SENT", "PROCESSES", "CONTAINERS")
    return tables.table(headings, sorted(rows, key=lambda row: row[1]))


def _cores(cpu: Any) -> str:
    """How many processors' worth, as 100 % each."""
    return f"{cpu.usage_nano_cores.value / 1e7:.1f} %" if cpu.HasField("usage_nano_cores") else _NONE


def _memory(memory: Any) -> tuple[str, str]:
    """What is in use, and what it may be."""
    used = memory.working_set_bytes
    limit = api.UInt64Value(value=used.value + memory.available_bytes.value)
    return (
        _size(used) if memory.HasField("working_set_bytes") else _NONE,
        _size(limit) if memory.HasField("available_bytes") and memory.available_bytes.value else _NONE,
    )


def _size(value: Any) -> str:
    return tables.size(value.value)


_EVENTS = {
    api.CONTAINER_CREATED_EVENT: "created",
    api.CONTAINER_STARTED_EVENT: "started",
    api.CONTAINER_STOPPED_EVENT: "stopped",
    api.CONTAINER_DELETED_EVENT: "deleted",
}


def add_events(parser: argparse.ArgumentParser) -> None:
    connection.add_options(parser)


def run_events(options: argparse.Namespace) -> int:
    """From now on, until interrupted or the daemon ends.  An event of a pod has the pod's id for the container's."""
    with connection.connect(options) as client:
        events = client.stream(api.GetEventsRequest())
        try:
            for event in events:
                print(tables.as_json([event], indent=None) if options.json else _event(event), flush=True)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.CANCELLED:
                raise
    return 0


def _event(event: Any) -> str:
    """One line: when, what, whose."""
    seconds = event.created_at / 1e9
    when = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(seconds)) + f".{int(seconds % 1 * 1000):03}"
    pod = event.pod_sandbox_status.metadata
    is_pod = event.container_id == event.pod_sandbox_status.id or not event.HasField("pod_sandbox_status")
    status = next((each for each in event.containers_statuses if each.id == event.container_id), None)
    what = f"{'pod' if is_pod else 'container'} {_EVENTS.get(event.container_event_type, '?')}"
    names = [pod.namespace, pod.name, status.metadata.name if status is not None else ""]
    words = [when, f"{what:<18}", event.container_id[: tables.SHORT_ID], "/".join(name for name in names if name)]
    if status is not None and event.container_event_type == api.CONTAINER_STOPPED_EVENT:
        words.append(json.dumps({"exit_code": status.exit_code, "reason": status.reason}))
    return tables.printable("  ".join(words).rstrip())
