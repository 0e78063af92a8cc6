"""Which network a pod gets: the cluster's plugins once it has configured some, the built-in bridge until then.

Asked for each pod.  Whichever connected a pod disconnects it: both know their own, and are asked in turn.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runtime.network import Addresses, Network
from runtime.network.bridge import BridgeNetwork
from runtime.network.cni import CONFIG_DIRECTORY, PROGRAM_DIRECTORIES, CniNetwork
from runtime.sandbox.state import Sandbox

#: "auto": plugins when there is a configuration of theirs.
Kind = Literal["auto", "built-in", "cni"]


@dataclass(frozen=True, slots=True)
class Choice:
    """What a node is told about its network."""

    kind: Kind = "built-in"
    config_directory: Path = CONFIG_DIRECTORY
    program_directories: Sequence[Path] = PROGRAM_DIRECTORIES


BUILT_IN = Choice()


class SelectedNetwork:
    """A ``Network`` of the two."""

    def __init__(self, kind: Kind, built_in: BridgeNetwork, cni: CniNetwork) -> None:
        self._kind = kind
        self._built_in = built_in
        self._cni = cni

    def problem(self) -> str | None:
        """Why pods cannot be attached now, for people; None when they can.  May wait for plugins, some seconds at most."""
        return self._cni.problem() if self._for_new_pods() is self._cni else None

    def set_pod_subnets(self, subnets: Sequence[str]) -> None:
        """Pods' addresses on this node as the cluster has it; the built-in network has its own from the configuration."""
        self._cni.set_pod_subnets(subnets)

    def attach(self, sandbox: Sandbox, netns_path: Path) -> Addresses:
        return self._for_new_pods().attach(sandbox, netns_path)

    def detach(self, sandbox_id: str) -> None:
        self._cni.detach(sandbox_id)
        self._built_in.detach(sandbox_id)

    def addresses(self, sandbox_id: str) -> Addresses | None:
        return self._cni.addresses(sandbox_id) or self._built_in.addresses(sandbox_id)

    def sweep(self, alive: Collection[Sandbox]) -> None:
        self._built_in.sweep(alive)
        self._cni.sweep(alive)

    def check_all(self, alive: Collection[Sandbox], closing: threading.Event) -> None:
        """Have plugins look whether their pods are connected as they left them; warnings say of which that is not so."""
        self._cni.check_all(alive, closing)

    def shutdown(self) -> None:
        self._built_in.shutdown()
        self._cni.shutdown()

    def _for_new_pods(self) -> Network:
        if self._kind == "cni" or (self._kind == "auto" and self._cni.is_configured()):
            return self._cni
        return self._built_in
