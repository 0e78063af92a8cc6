"""kernelet stats and events, against a daemon over a node in memory."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import pytest

from cri.__main__ import main
from cri.command import watching
from runtime.events import Kind
from tests.cri.conftest import Daemon
from tests.support.wait import until


@pytest.fixture
def kernelet(daemon: Daemon, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(command: str, *arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main([command, "--socket", str(daemon.socket), *arguments])
        return status, *capfd.readouterr()

    return run


Run = Callable[..., tuple[int, str, str]]


def test_what_containers_use(daemon: Daemon, kernelet: Run) -> None:
    container = daemon.running("web")
    status, out, _ = kernelet("stats", "--no-stream")
    assert status == 0
    heading, line = out.splitlines()
    assert heading.split() == ["CONTAINER", "NAME", "POD", "CPU", "MEMORY", "LIMIT", "SWAP", "WRITTEN"]
    assert line.split()[:3] == [container[:13], "web", "default/pod-of-web"]
    assert line.endswith("12.3 kB")
    [stats] = json.loads(kernelet("stats", "--no-stream", "--json", "web")[1])
    assert stats["attributes"]["id"] == container


def test_what_pods_use_with_their_networks(daemon: Daemon, kernelet: Run) -> None:
    container = daemon.running("web")
    pod = daemon.node.find_container(container).sandbox_id
    _, out, _ = kernelet("stats", "--no-stream", "--pods")
    heading, line = out.splitlines()
    assert heading.split() == ["POD", "NAME", "CPU", "MEMORY", "RECEIVED", "SENT", "PROCESSES", "CONTAINERS"]
    assert line.split()[:2] == [pod[:13], "default/pod-of-web"]
    assert line.split()[-6:] == ["10", "B", "50", "B", "5", "1"]
    daemon.running("other")
    assert len(kernelet("stats", "--no-stream", "--pods", "pod-of-web")[1].splitlines()) == 2
    assert len(kernelet("stats", "--no-stream", "pod-of-web")[1].splitlines()) == 2
    assert len(kernelet("stats", "--no-stream")[1].splitlines()) == 3


def test_it_goes_on(daemon: Daemon, kernelet: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.running("web")
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", sleep)
    status, out, _ = kernelet("stats", "--interval", "0.5", "--json")
    assert (status, len(out.splitlines()), looks) == (130, 3, [0.5] * 3)


def test_events_are_printed_as_they_happen(daemon: Daemon, kernelet: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    container = daemon.running("web")
    pod = daemon.node.find_container(container).sandbox_id
    printed: list[str] = []
    line_of = watching._event
    monkeypatch.setattr(watching, "_event", lambda event: printed.append(line_of(event)) or printed[-1])

    def happen() -> None:
        until(lambda: daemon.node.listeners)
        daemon.node.tell(Kind.CREATED, pod)
        daemon.node.tell(Kind.STARTED, pod, container)
        daemon.node.change(container, finished_at_ns=7, exit_code=3, reason="Error")
        daemon.node.tell(Kind.STOPPED, pod, container)
        daemon.node.remove_container(container)
        daemon.node.tell(Kind.DELETED, pod, container)
        until(lambda: len(printed) == 4)
        daemon.stop()

    teller = threading.Thread(target=happen)
    teller.start()
    _, out, _ = kernelet("events")
    teller.join()
    created, started, stopped, deleted = [line.split(maxsplit=1)[1] for line in out.splitlines()]
    assert created.split() == ["pod", "created", pod[:13], "default/pod-of-web"]
    assert started.split() == ["container", "started", container[:13], "default/pod-of-web/web"]
    assert stopped.split(maxsplit=4)[4] == '{"exit_code": 3, "reason": "Error"}'
    assert deleted.split() == ["container", "deleted", container[:13], "default/pod-of-web"]
