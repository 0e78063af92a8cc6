"""Runtime handlers: which there are, and what a container of each gets."""

from __future__ import annotations

import json
import os
from pathlib import Path

import grpc
import pytest

from cri import config
from cri.api import api_pb2 as api
from cri.handlers import PROFILE_LIMIT_BYTES, Handlers, read_profile
from runtime.errors import InvalidArgument
from runtime.spec import schema
from tests.cri import wishes
from tests.cri.conftest import Daemon


def handlers(text: str) -> Handlers:
    return Handlers(config.parse(text))


def test_a_handler_is_known_by_the_name_that_the_configuration_gives_it() -> None:
    known = handlers("[handlers.gpu]\nseccomp = 'runtime/default'")
    assert known.names() == ["", "gpu"]
    assert (known.find("").seccomp, known.find("gpu").seccomp) == ("unconfined", "runtime/default")
    with pytest.raises(InvalidArgument, match="unknown runtime handler 'kata'; configured by name: gpu"):
        known.find("kata")
    known.configure(config.Config())
    with pytest.raises(InvalidArgument, match="configured by name: none"):
        known.find("gpu")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("handlers = 1", "handlers: not a table"),
        ("[handlers]\ngpu = 1", "handlers.gpu: not a table"),
        ("[handlers.Gpu]", "is not the name of a handler"),
        ("[handlers.gpu]\nspeed = 1", "handlers.gpu.speed: unknown key"),
        ("[handlers.gpu]\nseccomp = 'x'", "handlers.gpu.seccomp: 'x' is none of"),
        ("[handlers.gpu]\ncdi_devices = 'x'", "handlers.gpu.cdi_devices: not a list"),
        ("cdi_dirs = ['x']", "cdi_dirs: each must be an absolute path"),
    ],
)
def test_a_wrong_handler_is_named(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        config.parse(text)


def test_an_unknown_handler_is_refused_and_a_kubelet_learns_of_those_there_are(daemon: Daemon) -> None:
    metadata = api.PodSandboxMetadata(name="a", namespace="b", uid="c")
    request = api.RunPodSandboxRequest(config=api.PodSandboxConfig(metadata=metadata), runtime_handler="kata")
    with pytest.raises(grpc.RpcError, match="unknown runtime handler 'kata'"):
        daemon.client.call(request, api.RunPodSandboxResponse)
    answer = daemon.client.call(api.StatusRequest(), api.StatusResponse)
    assert [handler.name for handler in answer.runtime_handlers] == [""]


def test_a_containers_own_word_counts_before_the_handlers() -> None:
    on = wishes.host(handler=config.HandlerConfig(seccomp="runtime/default"))
    assert wishes.translated(wishes.container(), on=on).spec.linux.seccomp is not None
    unconfined = api.SecurityProfile(profile_type=api.SecurityProfile.Unconfined)
    assert wishes.translated(wishes.secured(seccomp=unconfined), on=on).spec.linux.seccomp is None
    assert wishes.translated(wishes.secured(seccomp_profile_path="unconfined"), on=on).spec.linux.seccomp is None
    assert wishes.translated(wishes.container()).spec.linux.seccomp is None
    profile = json.dumps({"defaultAction": "SCMP_ACT_LOG"}).encode()
    on = wishes.host(handler=config.HandlerConfig(seccomp="/p.json"), read_file=lambda _path: profile)
    assert wishes.translated(wishes.container(), on=on).spec.linux.seccomp == schema.Seccomp(default_action="SCMP_ACT_LOG")


def test_a_privileged_container_may_be_kept_from_the_hosts_devices() -> None:
    asked: list[str] = []

    def find(path: str) -> list[schema.Device]:
        asked.append(path)
        return [schema.Device(path=path, type="c", major=10, minor=1)]

    wish = wishes.secured(privileged=True)
    wish.devices.add(host_path="/dev/fuse")
    on = wishes.host(find, handler=config.HandlerConfig(privileged_without_host_devices=True))
    spec = wishes.translated(wish, pod=wishes.sandbox(privileged=True), on=on).spec
    assert asked == ["/dev/fuse"]
    assert spec.linux.resources is not None and spec.linux.resources.devices[0] == schema.DeviceRule(allow=False)


def test_devices_of_the_handler_come_before_those_of_the_container() -> None:
    names: list[str] = []

    def inject(spec: schema.Spec, wanted: list[str]) -> list[int]:
        names.extend(wanted)
        spec.linux.devices = []
        return [44]

    on = wishes.host(handler=config.HandlerConfig(cdi_devices=("v/c=all",)), inject=inject)
    wish = wishes.container(CDI_devices=[api.CDIDevice(name="v/c=one")])
    result = wishes.translated(wish, on=on)
    assert (names, result.supplemental_groups, result.spec.linux.devices) == (["v/c=all", "v/c=one"], [44], [])


def test_devices_are_looked_for_where_the_configuration_says(tmp_path: Path) -> None:
    edits = {"env": ["GPU=yes"], "additionalGids": [5]}
    listed = [{"name": "one", "containerEdits": edits}]
    (tmp_path / "v.json").write_text(json.dumps({"cdiVersion": "0.6.0", "kind": "v.com/gpu", "devices": listed}))
    known = handlers(f"cdi_dirs = ['{tmp_path}']")
    spec = schema.Spec(process=schema.Process(env=["A=1"]))
    assert known.inject_devices(spec, []) == []
    assert known.inject_devices(spec, ["v.com/gpu=one", "v.com/gpu=one"]) == [5]
    assert spec.process is not None and spec.process.env == ["A=1", "GPU=yes"]
    with pytest.raises(InvalidArgument, match="unknown in"):
        known.inject_devices(spec, ["v.com/gpu=two"])


def test_a_profile_is_a_regular_file_of_a_sensible_size(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b"{}")
    assert read_profile(str(tmp_path / "p")) == b"{}"
    os.mkfifo(tmp_path / "fifo")
    with open(tmp_path / "large", "wb") as file:
        file.truncate(PROFILE_LIMIT_BYTES + 1)
    for path in ("/dev/zero", str(tmp_path), str(tmp_path / "fifo"), str(tmp_path / "large"), str(tmp_path / "none")):
        with pytest.raises(OSError):
            read_profile(path)
