"""Log lines: they can be taken apart again, and say which pod they are about."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cri import lines, subject
from cri.api import api_pb2 as api
from cri.config import LogConfig
from cri.interceptor import fields
from cri.lines import Lines, pairs
from cri.subject import NOBODY, Finder, Subject
from tests.cri.conftest import Daemon


def record(message: str, *arguments: object, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("runtime.recovery", level, __file__, 1, message, arguments, None)


def test_a_call_can_be_taken_apart_again() -> None:
    request = api.PullImageRequest(image=api.ImageSpec(image='a "b"'))
    values = fields("PullImage", 7, Subject(), request, grpc.StatusCode.UNKNOWN, 1.25, "x\ny=z")
    assert pairs(values) == 'rpc=PullImage call=7 image="a \\"b\\"" code=UNKNOWN ms=1.2 error="x\\ny=z"'
    values = fields("StopContainer", 8, Subject("default", "web", "c"), api.StopContainerRequest(container_id="f" * 64),
                    grpc.StatusCode.OK, 0, "")  # fmt: skip
    assert pairs(values) == (
        f"rpc=StopContainer call=8 namespace=default pod=web container=c container_id={'f' * 13} code=OK ms=0.0"
    )


def test_the_subject_of_a_request(daemon: Daemon) -> None:
    finder = Finder(daemon.node)
    metadata = api.PodSandboxMetadata(name="web", namespace="default")
    pod = api.PodSandboxConfig(metadata=metadata)
    container = api.ContainerConfig(metadata=api.ContainerMetadata(name="c"))
    assert subject.of_request(api.RunPodSandboxRequest(config=pod), finder) == Subject("default", "web")
    create = api.CreateContainerRequest(config=container, sandbox_config=pod)
    assert subject.of_request(create, finder) == Subject("default", "web", "c")
    running = daemon.running("web")
    sandbox_id = daemon.node.find_container(running).sandbox_id
    of = Subject("default", "pod-of-web", "web")
    assert subject.of_request(api.StopContainerRequest(container_id=running), finder) == of
    assert subject.of_request(api.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=container), finder) == Subject(
        "default", "pod-of-web", "c"
    )
    assert subject.of_request(api.StopPodSandboxRequest(pod_sandbox_id=sandbox_id[:20]), finder) == Subject(
        "default", "pod-of-web"
    )
    assert subject.of_request(api.StopContainerRequest(container_id="f" * 64), finder) == Subject()
    assert subject.of_request(api.StopContainerRequest(container_id=running), NOBODY) == Subject()
    assert subject.of_request(api.VersionRequest(), finder) == Subject()
    assert subject.of_request(api.UpdateRuntimeConfigRequest(), finder) == Subject()


def test_a_line_is_about_the_pod_whose_id_is_in_it(daemon: Daemon) -> None:
    running = daemon.running("web")
    text = Lines("text", Finder(daemon.node), is_journal=True)
    line = text.format(record("container %s has ended", running[:13], level=logging.WARNING))
    assert line == (
        f'<4>level=warning logger=runtime.recovery msg="container {running[:13]} has ended" '
        "namespace=default pod=pod-of-web container=web"
    )
    pod = daemon.node.find_container(running).sandbox_id
    assert text.format(record("sandbox %s", pod)).endswith(" namespace=default pod=pod-of-web")
    assert "pod=" not in text.format(record("nothing %s", "e" * 13))


def test_a_line_of_a_thread_that_works_on_a_request_is_about_its_pod(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    def body(name: str) -> None:
        seen.append(Lines("text", NOBODY, is_journal=False).format(record("slow")))

    daemon.node.gate = body
    daemon.pod("web")
    assert seen[0].endswith("msg=slow namespace=default pod=web")


def test_json_is_one_object_a_line_also_with_a_traceback() -> None:
    try:
        raise KeyError("oops")
    except KeyError:
        broken = record("it %s", "broke", level=logging.ERROR)
        broken.exc_info = sys.exc_info()
    line = Lines("json", NOBODY, is_journal=False).format(broken)
    parsed = json.loads(line)
    assert parsed["trace"].endswith("KeyError: 'oops'")
    assert (parsed["level"], parsed["logger"], parsed["msg"]) == ("error", "runtime.recovery", "it broke")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", parsed["time"])
    text = Lines("text", NOBODY, is_journal=True).format(broken)
    assert all(each.startswith("<3>") for each in text.splitlines()) and len(text.splitlines()) > 3


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, put back as it was."""
    logger = logging.getLogger()
    before = logger.handlers[:], logger.level
    logger.handlers.clear()
    yield logger
    logger.handlers[:] = before[0]
    logger.setLevel(before[1])


def test_level_and_format_can_be_changed(root: logging.Logger) -> None:
    out = io.StringIO()
    lines.set_up(LogConfig(level="warning"), NOBODY, stream=out)
    logging.getLogger("a").info("one")
    logging.getLogger("a").warning("two")
    lines.set_up(LogConfig(level="info", format="json"), NOBODY, stream=out)
    logging.getLogger("a").info("three")
    lines.set_up(LogConfig(level="error"), NOBODY, stream=out, verbose=True)
    logging.getLogger("a").debug("four")
    two, three, four = out.getvalue().splitlines()
    assert two.endswith("level=warning logger=a msg=two")
    assert json.loads(three)["msg"] == "three"
    assert four.endswith("level=debug logger=a msg=four")


def test_the_journal_is_known_by_its_socket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end, end.makefile("w") as stream, (tmp_path / "file").open("w") as other:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        assert lines.is_journal(stream)
        assert not lines.is_journal(other)
    assert not lines.is_journal(io.StringIO())


def test_a_librarys_debug_lines_about_itself_are_left_out(root: logging.Logger) -> None:
    out = io.StringIO()
    lines.set_up(LogConfig(level="debug"), NOBODY, stream=out)
    logging.getLogger("grpc._cython.cygrpc").debug("one")
    logging.getLogger("grpc.aio").warning("two")
    assert [line.rpartition("msg=")[2] for line in out.getvalue().splitlines()] == ["two"]
