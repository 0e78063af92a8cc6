"""The command's client half, against a daemon over a node in memory."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from cri.__main__ import COMMANDS, main
from runtime.image.auth import Credentials
from tests.cri.conftest import Daemon
from tests.cri.fake import NAME, image

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def kernelet(daemon: Daemon, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a subcommand against the daemon: exit status, what it printed, what it complained about."""

    def run(command: str, *arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main([command, "--socket", str(daemon.socket), *arguments])
        return status, *capfd.readouterr()

    return run


def test_every_command_has_its_functions(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
        assert f"usage: kernelet {name}" in capsys.readouterr().out


def test_ps_shows_what_runs_and_all_on_request(daemon: Daemon, kernelet: Run) -> None:
    running = daemon.running("web")
    created = daemon.container(daemon.pod("other"), "idle")
    status, out, _ = kernelet("ps")
    assert status == 0
    assert out.splitlines()[0].split() == ["CONTAINER", "NAME", "POD", "IMAGE", "STATE", "AGE"]
    [line] = out.splitlines()[1:]
    assert line.split()[:5] == [running[:13], "web", "default/pod-of-web", NAME, "running"]
    _, out, _ = kernelet("ps", "--all", "--json")
    assert {item["id"] for item in json.loads(out)} == {running, created}


def test_pods(daemon: Daemon, kernelet: Run) -> None:
    pod = daemon.pod("web\x1b[31m")
    _, out, _ = kernelet("pods")
    assert out.splitlines()[1].split()[:5] == [pod[:13], "default", "web?[31m", "0", "ready"]
    _, out, _ = kernelet("pods", "--json")
    assert json.loads(out)[0]["metadata"]["namespace"] == "default"


def test_images_and_pull(daemon: Daemon, kernelet: Run) -> None:
    status, out, _ = kernelet("pull", "--creds", "me:secret", "registry.example/app:2")
    assert (status, out.strip()) == (0, image(2).id)
    assert daemon.pull.credentials == Credentials(username="me", password="secret")
    _, out, _ = kernelet("images")
    assert [line.split()[0] for line in out.splitlines()] == ["IMAGE", NAME, "registry.example/app:2"]
    assert out.splitlines()[1].endswith("1 kB")
    status, _, err = kernelet("pull", "down.example/app")
    assert (status, err) == (1, "kernelet: RegistryUnavailable: pull down.example/app: connection refused\n")


def test_exec_passes_output_and_exit_status_on(daemon: Daemon, kernelet: Run) -> None:
    container_id = daemon.running("web")
    assert kernelet("exec", "--timeout", "5", "web", "ls", "-l") == (3, "out", "err")
    assert daemon.node.calls[-1] == ("exec_sync", container_id, "ls", "-l", 5.0)
    assert kernelet("exec", "--timeout", "1", container_id[:20], "--", "--odd")[0] == 3
    assert daemon.node.calls[-1] == ("exec_sync", container_id, "--odd", 1.0)
    status, _, err = kernelet("exec", "-i", "--json", "web", "ls")
    assert status == 1 and "go with neither --json nor --timeout" in err
    _, out, _ = kernelet("exec", "--json", "web", "ls")
    assert json.loads(out)[0] == {
        "stdout": base64.b64encode(b"out").decode(),
        "stderr": base64.b64encode(b"err").decode(),
        "exit_code": 3,
    }


def test_stop_and_rm(daemon: Daemon, kernelet: Run) -> None:
    container_id = daemon.running("web")
    status, _, err = kernelet("rm", "web")
    assert (status, err) == (1, "kernelet: container web runs: stop it first, or use --force\n")
    assert kernelet("stop", "--timeout", "3", "web") == (0, f"{container_id}\n", "")
    assert daemon.node.calls[-1] == ("stop_container", container_id, 3.0)
    assert kernelet("rm", "web")[0] == 0
    assert kernelet("rm", "pod-of-web")[0] == 1
    assert kernelet("rm", "--force", "pod-of-web")[0] == 0
    assert daemon.node.sandboxes() == []


def test_a_pod_is_stopped_too(daemon: Daemon, kernelet: Run) -> None:
    pod = daemon.pod("web")
    assert kernelet("stop", "web") == (0, f"{pod}\n", "")
    assert daemon.node.calls[-1] == ("stop_sandbox", pod)


def test_what_is_not_there_or_not_one_is_told(daemon: Daemon, kernelet: Run) -> None:
    status, _, err = kernelet("stop", "nothing")
    assert status == 1 and "no container or pod has an id that begins with 'nothing'" in err
    daemon.running("one")
    daemon.running("two")
    status, _, err = kernelet("stop", "c")
    assert status == 1 and "2 of them are 'c'" in err


def test_version(daemon: Daemon, kernelet: Run) -> None:
    _, out, _ = kernelet("version")
    assert out.splitlines() == ["kernelet 0.1.0", "daemon   kernelet 0.1.0, CRI v1"]
    _, out, _ = kernelet("version", "--json")
    assert json.loads(out) == [
        {"version": "0.1.0", "runtime_name": "kernelet", "runtime_version": "0.1.0", "runtime_api_version": "v1"}
    ]


def test_no_daemon_is_said_so(daemon: Daemon, kernelet: Run, capfd: pytest.CaptureFixture[str]) -> None:
    status = main(["ps", "--socket", str(daemon.socket.with_name("other"))])
    assert status == 1
    assert "nobody answers on" in capfd.readouterr().err


def test_an_ended_container_is_shown_as_such(daemon: Daemon, kernelet: Run) -> None:
    container_id = daemon.running("web")
    daemon.node.change(container_id, finished_at_ns=5)
    _, out, _ = kernelet("ps", "-a")
    assert out.splitlines()[1].split()[4] == "exited"


def test_ids_and_names_alone(daemon: Daemon, kernelet: Run) -> None:
    running = daemon.running("web")
    assert kernelet("ps", "-q")[1] == f"{running}\n"
    assert kernelet("ps", "--names")[1] == "web\n"
    assert kernelet("pods", "--names")[1] == "pod-of-web\n"
    assert kernelet("images", "--names")[1] == f"{NAME}\n"
    assert kernelet("images", "--quiet")[1] == f"{image().id}\n"


def test_inspect_shows_a_container_a_pod_or_an_image(daemon: Daemon, kernelet: Run) -> None:
    running = daemon.running("web")
    status, out, _ = kernelet("inspect", "web", "pod-of-web", NAME)
    container, pod, of_image = json.loads(out)
    assert status == 0
    assert (container["kind"], container["status"]["id"]) == ("container", running)
    assert container["info"]["info"]["sandboxID"] == daemon.node.find_container(running).sandbox_id
    assert (pod["kind"], pod["status"]["metadata"]["name"]) == ("pod", "pod-of-web")
    assert (of_image["kind"], of_image["image"]["id"]) == ("image", image().id)
    status, _, err = kernelet("inspect", "nothing")
    assert (status, err) == (1, "kernelet: no container, pod or image has an id that begins with 'nothing', nor that name\n")


def test_rmi(daemon: Daemon, kernelet: Run) -> None:
    assert kernelet("rmi", "--json", NAME) == (0, f'{{"kind": "image", "id": "{image().id}"}}\n', "")
    status, _, err = kernelet("rmi", NAME)
    assert (status, err) == (1, f"kernelet: no image here has the name or id '{NAME}'\n")


def test_what_was_done_is_told_as_json_too(daemon: Daemon, kernelet: Run) -> None:
    container_id = daemon.running("web")
    assert json.loads(kernelet("stop", "--json", "web")[1]) == {"kind": "container", "id": container_id}
    assert json.loads(kernelet("rm", "--json", "web")[1]) == {"kind": "container", "id": container_id}


def test_a_socket_that_is_not_ours_to_use_is_said_so(
    daemon: Daemon, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.touch()
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert main(["ps", "--socket", str(closed)]) == 1
    assert capfd.readouterr().err == f"kernelet: {closed} is for root and its group only: use sudo\n"


def test_a_daemon_that_hangs_is_said_so(
    daemon: Daemon, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cri.client.QUICK_SECONDS", 0.2)
    path = daemon.socket.with_name("deaf")
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(path))
        deaf.listen()
        assert main(["ps", "--socket", str(path)]) == 1
    assert "does not answer" in capfd.readouterr().err
