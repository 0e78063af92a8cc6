"""The cluster's network: plugins that a configuration list names, executed one after the other (CNI specification 1.1).

    ADD   list order; each gets the result of the one before it.  One fails: all are told DEL, and the pod is not run
    DEL   the other way round, with what ADD was told and answered, though the list may be another by now
    CHECK, GC, STATUS  where the list's version of the specification has them

Before the first plugin is started, a row of the table ``attachments`` says what all are going to be told; their answer
is added to it; it goes when every plugin has taken back what it gave.  So whatever ends the daemon in between, DEL is
repeated until it works: by the kubelet's StopPodSandbox, or by ``sweep`` after a restart.  A pod whose namespace is
gone (a reboot) is taken back too, for a plugin's addresses outlive both.

The list is read for each pod: a change needs no restart.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import msgspec

from kernel.namespace import is_pin
from runtime import document
from runtime.errors import InvalidArgument, KerneletError, NotReady
from runtime.network import Addresses, capabilities, conflist
from runtime.network.conflist import Conflist
from runtime.network.plugin import Programs
from runtime.network.result import addresses_in
from runtime.sandbox.state import Sandbox
from runtime.store import Store

CONFIG_DIRECTORY = Path("/etc/cni/net.d")
PROGRAM_DIRECTORIES = (Path("/opt/cni/bin"), Path("/usr/lib/cni"))
INTERFACE = "eth0"
#: For all plugins of a list together: less than the two minutes that a kubelet waits for a sandbox.
TIMEOUT_SECONDS = 90.0
#: How long an answer to STATUS or VERSION counts; a kubelet asks every 5 s.
FRESH_SECONDS = 4.0
STATUS_SECONDS = 10.0

logger = logging.getLogger(__name__)


class Attachment(msgspec.Struct, kw_only=True):
    """What the plugins were told of a pod and, once all were asked, what the last one answered."""

    id: str
    conflist: str
    arguments: str
    netns: str
    told: dict[str, Any]
    result: Any = None


class CniNetwork:
    """A ``Network`` of plugins.  *directory* has the list, *programs* the plugins."""

    def __init__(
        self,
        store: Store,
        *,
        directory: Path = CONFIG_DIRECTORY,
        programs: Sequence[Path] = PROGRAM_DIRECTORIES,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._store = store
        self._directory = directory
        self._programs = Programs(programs)
        self._timeout = timeout_seconds
        self._lock = threading.Lock()
        self._asked: tuple[float, Conflist, str | None] | None = None
        self._pod_subnets: tuple[str, ...] = ()

    def is_configured(self) -> bool:
        """Whether the directory has a configuration, be it a good one or not."""
        try:
            return conflist.find(self._directory) is not None
        except OSError:
            return True

    def problem(self) -> str | None:
        """Why no pod can be attached now, for people; None when one can.  May execute plugins: up to ``STATUS_SECONDS``."""
        try:
            network = self._network()
        except KerneletError as error:
            return str(error)
        with self._lock:
            asked = self._asked
        if asked is not None and asked[1] == network and time.monotonic() - asked[0] < FRESH_SECONDS:
            return asked[2]
        problem = self._ask(network)
        with self._lock:
            self._asked = time.monotonic(), network, problem
        return problem

    def set_pod_subnets(self, subnets: Sequence[str]) -> None:
        """Pods' addresses on this node, for plugins that ask for ``ipRanges``."""
        self._pod_subnets = tuple(subnets)

    def attach(self, sandbox: Sandbox, netns_path: Path) -> Addresses:
        """Have every plugin connect the namespace; again, it returns the same addresses.

        Raises NotReady without a usable list, NetworkFailed with a plugin's own words; what was done is undone then.
        """
        known = self._find(sandbox.id)
        if known is not None and known.result is not None:
            return addresses_in(known.result, conflist.parse(known.conflist).name, INTERFACE)
        network = self._network()
        attachment = Attachment(
            id=sandbox.id,
            conflist=network.text,
            arguments=_arguments(sandbox),
            netns=os.fspath(netns_path),
            told=capabilities.of(sandbox, self._pod_subnets),
        )
        self._warn_of_ports(sandbox, network)
        self._save(attachment)
        try:
            attachment.result = self._add(network, attachment)
            addresses = addresses_in(attachment.result, network.name, INTERFACE)
            self._save(attachment)
        except BaseException as error:
            try:
                self.detach(sandbox.id)
            except (KerneletError, OSError) as further:
                error.add_note(f"and undoing it: {further}")
            raise
        return addresses

    def detach(self, sandbox_id: str) -> None:
        """Have every plugin take back what it gave.  Raises NetworkFailed for the first that cannot; ask again then."""
        attachment = self._find(sandbox_id)
        if attachment is None:
            return
        self._run_each("DEL", conflist.parse(attachment.conflist), attachment)
        with self._store.transaction() as db:
            db.execute("DELETE FROM attachments WHERE id = ?", (sandbox_id,))

    def addresses(self, sandbox_id: str) -> Addresses | None:
        """What ``attach`` returned, or None when the sandbox is not attached."""
        attachment = self._find(sandbox_id)
        if attachment is None or attachment.result is None:
            return None
        return addresses_in(attachment.result, conflist.parse(attachment.conflist).name, INTERFACE)

    def check(self, sandbox_id: str) -> None:
        """Ask the plugins whether the pod is connected as they left it.  Raises NetworkFailed for the first that says no."""
        attachment = self._find(sandbox_id)
        if attachment is not None:
            self._check(attachment)

    def check_all(self, alive: Collection[Sandbox], closing: threading.Event) -> None:
        """Have each of *alive* checked by a thread, until *closing*: warnings say which are not as they were left."""
        known = [(sandbox, attachment) for sandbox in alive if (attachment := self._find(sandbox.id)) is not None]

        def work() -> None:
            for sandbox, attachment in known:
                if closing.is_set():
                    return
                try:
                    self._check(attachment)
                except (KerneletError, OSError) as error:
                    logger.warning("pod %s/%s: its network: %s", sandbox.config.namespace, sandbox.config.name, error)

        if known:
            threading.Thread(target=work, name="check networks", daemon=True).start()

    def sweep(self, alive: Collection[Sandbox]) -> None:
        """Take back what belongs to no sandbox in *alive*; then plugins may collect what they alone know of."""
        known = {sandbox.id for sandbox in alive}
        for sandbox_id in self._ids():
            if sandbox_id not in known:
                try:
                    self.detach(sandbox_id)
                except (KerneletError, OSError) as error:
                    logger.warning("the network of sandbox %s, which is gone: %s", sandbox_id[:13], error)
        try:
            self._collect()
        except KerneletError as error:
            logger.warning("collecting what belongs to no pod: %s", error)

    def shutdown(self) -> None:
        """Nothing is there for all pods that would be ours."""

    def _network(self) -> Conflist:
        """The list as it is now.  Raises NotReady."""
        try:
            path = conflist.find(self._directory)
            if path is None:
                raise NotReady(f"no CNI configuration in {self._directory}: the cluster's network is not installed yet")
            return conflist.load(path)
        except InvalidArgument as error:
            raise NotReady(str(error)) from None
        except OSError as error:
            raise NotReady(f"the CNI configuration in {self._directory}: {(error.strerror or str(error)).lower()}") from None

    def _ask(self, network: Conflist) -> str | None:
        """Whether each plugin is there, knows the list's version, and says that it is ready."""
        deadline = time.monotonic() + STATUS_SECONDS
        try:
            for plugin in network.plugins:
                answer = self._programs.run(
                    "VERSION", plugin.type, {}, b'{"cniVersion":"' + network.version.encode() + b'"}', deadline
                )
                known = answer.get("supportedVersions", []) if isinstance(answer, dict) else []
                if network.version not in known:
                    return f"CNI plugin {plugin.type} knows {', '.join(map(str, known)) or 'no version'}, not {network.version}"
                if network.knows("STATUS"):
                    self._programs.run("STATUS", plugin.type, {}, plugin.document(network, told={}), deadline)
        except KerneletError as error:
            return str(error)
        return None

    def _add(self, network: Conflist, attachment: Attachment) -> Any:
        result, deadline = None, time.monotonic() + self._timeout
        for plugin in network.plugins:
            document = plugin.document(network, told=attachment.told, result=result)
            result = self._programs.run("ADD", plugin.type, _variables(attachment), document, deadline) or result
        return result

    def _run_each(self, command: str, network: Conflist, attachment: Attachment) -> None:
        """CHECK in the list's order, or DEL the other way round, each with the whole list's result."""
        deadline = time.monotonic() + self._timeout
        result = attachment.result if network.results_are_told else None
        for plugin in network.plugins if command == "CHECK" else reversed(network.plugins):
            document = plugin.document(network, told=attachment.told, result=result)
            self._programs.run(command, plugin.type, _variables(attachment), document, deadline)

    def _check(self, attachment: Attachment) -> None:
        network = conflist.parse(attachment.conflist)
        if attachment.result is not None and network.knows("CHECK"):
            self._run_each("CHECK", network, attachment)

    def _collect(self) -> None:
        """Tell plugins which attachments there are (GC), those of other networks left out."""
        if not self.is_configured():
            return
        network = self._network()
        if not network.knows("GC"):
            return
        deadline = time.monotonic() + self._timeout
        records = [record for record in map(self._find, self._ids()) if record is not None]
        valid = [
            {"containerID": record.id, "ifname": INTERFACE}
            for record in records
            if conflist.parse(record.conflist).name == network.name
        ]
        for plugin in network.plugins:
            added = {"cni.dev/valid-attachments": valid, "cni.dev/attachments": valid}
            self._programs.run("GC", plugin.type, {}, plugin.document(network, told={}, **added), deadline)

    def _warn_of_ports(self, sandbox: Sandbox, network: Conflist) -> None:
        """Some networks open ports of the host without being told here (Cilium); nobody can see whether this one does."""
        if sandbox.config.port_mappings and "portMappings" not in network.capabilities:
            logger.warning(
                "pod %s/%s asks for ports of the host: no plugin of the CNI network %s says that it opens them",
                sandbox.config.namespace,
                sandbox.config.name,
                network.name,
            )

    def _find(self, sandbox_id: str) -> Attachment | None:
        rows = self._store.rows("SELECT record FROM attachments WHERE id = ?", sandbox_id)
        return document.decode(bytes(rows[0][0]), Attachment) if rows else None  # type: ignore[call-overload]

    def _ids(self) -> list[str]:
        return [str(found) for (found,) in self._store.rows("SELECT id FROM attachments")]

    def _save(self, attachment: Attachment) -> None:
        with self._store.transaction() as db:
            db.execute("INSERT OR REPLACE INTO attachments VALUES (?, ?)", (attachment.id, document.encode(attachment)))


def _arguments(sandbox: Sandbox) -> str:
    """CNI_ARGS as every Kubernetes runtime gives them.  What would end an argument early is refused."""
    config = sandbox.config
    arguments = {
        "IgnoreUnknown": "1",
        "K8S_POD_NAMESPACE": config.namespace,
        "K8S_POD_NAME": config.name,
        "K8S_POD_INFRA_CONTAINER_ID": sandbox.id,
        "K8S_POD_UID": config.uid,
    }
    for name, value in arguments.items():
        if any(character in value for character in ";=\0"):
            raise InvalidArgument(f"{name} {value!r}: ';', '=' and NUL cannot be told to a CNI plugin")
    return ";".join(f"{name}={value}" for name, value in arguments.items())


def _variables(attachment: Attachment) -> dict[str, str]:
    """The environment of one attachment; a namespace that is gone has no path."""
    return {
        "CNI_CONTAINERID": attachment.id,
        "CNI_IFNAME": INTERFACE,
        "CNI_NETNS": attachment.netns if is_pin(Path(attachment.netns)) else "",
        "CNI_ARGS": attachment.arguments,
    }
