"""spec and features: the documents that others read."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from runtime.oci.features import features
from runtime.oci.spec import example, make_rootless
from runtime.spec.load import load
from tests.support import child
from tests.support.oci import CommandLine
from tests.support.requires import program, requires


def runcs(directory: Path, *flags: str) -> dict[str, Any]:
    """What the installed runc writes, without what was changed since 1.1: ambient capabilities, the order of namespaces."""
    subprocess.run([program("runc"), "spec", *flags], cwd=directory, check=True)
    document: dict[str, Any] = json.loads((directory / "config.json").read_text())
    document["process"]["capabilities"].pop("ambient", None)
    return document


def comparable(document: dict[str, Any]) -> dict[str, Any]:
    """*document* without what is meant to differ: version, host name, the cgroup namespace."""
    linux = dict(document["linux"])
    linux["namespaces"] = [each for each in linux["namespaces"] if each["type"] != "cgroup"]
    return {**document, "linux": linux, "ociVersion": "", "hostname": ""}


@requires("runc")
def test_the_example_is_runcs(tmp_path: Path) -> None:
    assert comparable(example()) == comparable(runcs(tmp_path))


@requires("runc")
def test_the_rootless_example_is_runcs(tmp_path: Path) -> None:
    document = example()
    make_rootless(document, os.geteuid(), os.getegid())
    assert comparable(document) == comparable(runcs(tmp_path, "--rootless"))


def test_the_example_is_a_valid_document_with_a_cgroup_namespace() -> None:
    spec = load(json.dumps(example()).encode())
    assert "cgroup" in [namespace.type for namespace in spec.linux.namespaces]


def test_it_is_written_where_asked_and_never_over_another(oci: CommandLine, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere"
    place.mkdir()
    oci.call("spec", "--bundle", str(place))
    text = (place / "config.json").read_text()
    assert json.loads(text) == example()
    assert text.startswith('{\n\t"ociVersion": "')
    assert f"file {place}/config.json exists; remove it first" in oci.refusal("spec", "-b", str(place))
    assert "config.json exists" in oci.refusal("spec")
    assert "takes at most 0" in oci.refusal("spec", "extra")


def test_what_it_writes_runs(oci: CommandLine) -> None:
    (oci.bundle / "config.json").unlink()
    oci.call("spec")
    config = json.loads((oci.bundle / "config.json").read_text())
    config["process"].update(terminal=False, args=["sh", "-c", "echo > /dev/null && cat /proc/self/cgroup"])
    (oci.bundle / "config.json").write_text(json.dumps(config))
    assert "0::/\n" in oci.call("run", "web").stdout


def test_the_features_are_a_document_that_names_what_engines_ask_for(oci: CommandLine) -> None:
    told = json.loads(oci.call("features").stdout)
    assert told == features()
    assert told["hooks"] == ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
    assert {"rro", "idmap", "tmpcopyup", "rbind"} <= set(told["mountOptions"])
    assert told["linux"]["mountExtensions"]["idmap"]["enabled"]
    assert told["linux"]["cgroup"] == {"v1": False, "v2": True, "systemd": True, "systemdUser": True, "rdma": True}
    assert told["annotations"]["org.opencontainers.runc.checkpoint.enabled"] == "false"


@requires("root")
def test_the_flags_that_are_told_are_those_that_the_kernel_takes() -> None:
    def install_with(flag: str) -> str:
        from kernel import seccomp

        allow = seccomp.INSTRUCTION.pack(0x06, 0, 0, seccomp.RET_ALLOW)
        try:
            if "WAIT_KILLABLE" in flag:
                seccomp.install_listener(allow, flags=seccomp.FLAGS[flag]).close()
            else:
                seccomp.install(allow, flags=seccomp.FLAGS[flag])
        except OSError:
            return ""
        return flag

    told = features()["linux"]["seccomp"]
    taken = [child.run(lambda flag=flag: install_with(flag)) for flag in told["knownFlags"]]  # type: ignore[misc]
    assert told["supportedFlags"] == [flag for flag in taken if flag]


@pytest.mark.parametrize("word", ["actions", "operators", "archs", "knownFlags"])
def test_every_word_of_seccomp_that_is_told_is_one_that_a_spec_may_say(word: str) -> None:
    seccomp: dict[str, Any] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_LOG"}]}
    for value in features()["linux"]["seccomp"][word]:
        profile = json.loads(json.dumps(seccomp))
        rule = profile["syscalls"][0]
        match word:
            case "actions":
                rule["action"] = value
                profile["listenerPath"] = "/run/listener.sock"
            case "operators":
                rule["args"] = [{"index": 0, "value": 1, "op": value}]
            case "archs":
                profile["architectures"] = [value]
            case _:
                profile["flags"] = [value]
                profile["listenerPath"] = "/run/listener.sock"
                rule["action"] = "SCMP_ACT_NOTIFY"
        spec = load(json.dumps({**example(), "linux": {**example()["linux"], "seccomp": profile}}).encode())
        assert spec.linux.seccomp is not None
