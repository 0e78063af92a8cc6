"""linux.netDevices: network interfaces of the host's that a container gets for itself.

Each keeps its global, permanent addresses and nothing else, is renamed on the way if the spec says so, and is up when
the container starts.  When the container ends, the kernel gives back what is hardware, under the name it has then.
"""

from __future__ import annotations

from collections.abc import Mapping

from kernel.fd import Fd
from kernel.namespace import identity, open_namespace
from kernel.netlink import Netlink
from runtime.errors import InvalidSpec, Unsupported
from runtime.spec import schema


def move_all(devices: Mapping[str, schema.NetDevice], pid: int) -> None:
    """Move *devices*, by their names here, into the network namespace of *pid*.

    Raises InvalidSpec when one is not here, or its name is taken there, Unsupported when the kernel does not let it go.
    Those that were moved are back then.
    """
    with open_namespace("thread-self", "net") as ours, open_namespace(pid, "net") as theirs:
        if identity(ours) == identity(theirs):
            raise InvalidSpec("linux.netDevices: the container has no network namespace of its own to move them to")
        moved: dict[str, schema.NetDevice] = {}
        try:
            for name, device in devices.items():
                _move(name, device.name or name, ours, theirs)
                moved[name] = device
        except (InvalidSpec, Unsupported, OSError):
            move_back(moved, pid)
            raise


def move_back(devices: Mapping[str, schema.NetDevice], pid: int) -> None:
    """Undo ``move_all``: before the namespace ends, which would be the end of those that are no hardware."""
    with open_namespace("thread-self", "net") as ours, open_namespace(pid, "net") as theirs:
        for name, device in reversed(list(devices.items())):
            _move(device.name or name, name, theirs, ours)


def _move(name: str, new_name: str, source: Fd, target: Fd) -> None:
    where = f"linux.netDevices.{name}"
    with Netlink(source) as here, Netlink(target) as there:
        link = here.find_link(name)
        if link is None:
            raise InvalidSpec(f"{where}: there is no network interface of that name in the runtime's namespace")
        if there.find_link(new_name) is not None:
            raise InvalidSpec(f"{where}: the container has an interface that is called {new_name} already")
        addresses = here.lasting_addresses(link)
        try:
            here.set_down(name)  # as ip(8) wants it too: no name changes under a link in use
            here.move_link(link, target, new_name)
        except OSError as error:
            if link.is_up:
                here.set_up(name)
            raise Unsupported(f"{where}: {(error.strerror or '').lower()}") from error
        arrived = there.link(new_name)
        for address in addresses:
            there.add_address(arrived, address)
        there.set_up(new_name)
