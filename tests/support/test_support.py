"""The tools of the tests, tested: each must be able to fail."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from cri.api import api_pb2 as api
from kernel import mount
from kernel.mountinfo import load_mountinfo
from runtime.journal import Journal
from runtime.paths import Paths
from tests.support import cgroup, child, client, isolation, leaks, requires, wait

root = requires.requires("root")


class TestWait:
    def test_the_first_true_value_is_returned(self) -> None:
        answers = iter([0, None, "", "ready"])
        assert wait.until(lambda: next(answers), 5) == "ready"

    def test_a_deadline_names_what_was_awaited(self) -> None:
        with pytest.raises(AssertionError, match=r"waited 0.01 s for the moon; the last answer was \[\]"):
            wait.until(list, 0.01, "the moon")

    def test_an_exception_of_the_condition_is_not_swallowed(self) -> None:
        with pytest.raises(ZeroDivisionError):
            wait.until(lambda: 1 // 0, 5)


class TestRequires:
    def test_an_unknown_word_is_a_bug(self) -> None:
        with pytest.raises(pytest.fail.Exception, match="BUG: unknown requirement: rooot"):
            requires.enforce(("rooot",))

    def test_an_unmet_word_skips_and_names_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CI", raising=False)
        with pytest.raises(pytest.skip.Exception, match=r"requires kernel 99\.1"):
            requires.enforce(("kernel 99.1",))

    def test_an_unmet_word_fails_in_ci(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CI", "true")
        with pytest.raises(pytest.fail.Exception, match=r"requires kernel 99\.1, which a CI machine must have"):
            requires.enforce(("kernel 99.1",))

    def test_an_excused_word_skips_in_ci(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CI", "true")
        with pytest.raises(pytest.skip.Exception, match="requires controllers warp"):
            requires.enforce(("controllers warp",))

    def test_every_excuse_is_for_a_word_and_has_a_reason(self) -> None:
        assert requires.EXCUSED.keys() <= requires.VOCABULARY.keys()
        assert all(requires.EXCUSED.values())

    def test_kernel_versions_are_compared_as_numbers(self) -> None:
        assert requires.is_met("kernel 5.9")
        assert not requires.is_met("kernel 5000.0")


@root
class TestChild:
    def test_the_result_comes_back(self) -> None:
        marker = object.__new__(Marker)
        assert child.run(lambda: (os.getpid(), {"a": [1]}))[1] == {"a": [1]}
        assert isinstance(child.run(lambda: marker), Marker)

    def test_an_exception_comes_back_with_its_notes_and_the_childs_traceback(self) -> None:
        with pytest.raises(FileNotFoundError) as caught:
            child.run(lambda: mount.clone_tree("/nowhere"))
        assert caught.value.filename == "/nowhere"
        assert caught.value.__notes__[0] == "in open_tree(2)"
        assert "in clone_tree" in caught.value.__notes__[1]

    def test_a_failure_that_cannot_be_pickled_still_arrives(self) -> None:
        def fail() -> None:
            raise type("Local", (Exception,), {})("odd")

        with pytest.raises(RuntimeError, match="Local: odd"):
            child.run(fail)

    def test_a_child_that_dies_is_reported(self) -> None:
        with pytest.raises(AssertionError, match=f"ended without an answer.*si_status={int(signal.SIGKILL)}"):
            child.run(lambda: os.kill(os.getpid(), signal.SIGKILL))

    def test_a_child_that_hangs_is_killed_and_shows_its_stack(self, capfd: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(AssertionError, match="did not answer in time"):
            child.run(hang, deadline_seconds=0.3)
        assert "in hang" in capfd.readouterr().err

    def test_a_hanging_first_process_of_a_pid_namespace_is_killed(self) -> None:
        with pytest.raises(AssertionError, match="did not answer in time"):
            child.run(hang, namespaces=["pid"], deadline_seconds=0.3)

    @pytest.mark.parametrize("name", sorted(child.NAMESPACES))
    def test_a_namespace_is_new(self, name: str) -> None:
        file = {"mount": "mnt", "network": "net"}.get(name, name)
        link = f"/proc/self/ns/{file}"
        names = ["mount", "pid"] if name == "pid" else [name]
        assert child.run(lambda: os.readlink(link), namespaces=names) != os.readlink(link)

    def test_process_one_sees_its_own_proc(self) -> None:
        assert child.run(lambda: (os.getpid(), os.readlink("/proc/self")), namespaces=["mount", "pid"]) == (1, "1")

    def test_every_id_is_mapped_in_a_new_user_namespace(self) -> None:
        read = Path("/proc/self/uid_map").read_text
        assert child.run(read, namespaces=["user"]).split() == ["0", "0", "4294967295"]

    def test_loopback_answers_in_a_new_network_namespace(self) -> None:
        def listen() -> tuple[str, int]:
            with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as peer:
                name: tuple[str, int] = peer.getpeername()
                return name

        assert child.run(listen, namespaces=["network"])[0] == "127.0.0.1"

    def test_a_mount_in_the_child_does_not_come_out(self, tmp_path: Path) -> None:
        child.run(lambda: mount.bind("/proc", tmp_path), namespaces=["mount"])
        assert not list(tmp_path.iterdir())


class Marker:
    pass


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def start_a_run() -> tuple[int, Path]:
    """A process that has become a run of its own, and its directory."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with isolation.isolated() as other:
                os.write(writer, os.fsencode(other.directory))
                signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    directory = os.read(reader, 200)
    os.close(reader)
    assert directory, "the run did not start"
    return pid, Path(os.fsdecode(directory))


def hang() -> None:
    time.sleep(60)


@root
class TestIsolation:
    def test_the_run_has_its_own_network(self, run: isolation.Run) -> None:
        assert run.is_isolated
        assert [name for _, name in socket.if_nameindex()] == ["lo"]
        assert os.listdir("/sys/class/net") == ["lo"]

    @requires.requires("cgroup2")
    def test_the_hosts_cgroups_are_out_of_sight(self) -> None:
        assert [row.target for row in load_mountinfo() if row.filesystem.startswith("cgroup")] == ["/sys/fs/cgroup"]
        assert Path("/proc/self/cgroup").read_text().splitlines()[-1] == "0::/pytest"
        assert cgroup.processes(cgroup.ROOT) == set()

    def test_no_mount_is_shared_with_the_host(self) -> None:
        assert not [row for row in load_mountinfo() if row.is_shared]

    def test_an_orphan_becomes_our_child(self) -> None:
        script = "import os\nprint(os.posix_spawn('/bin/sleep', ['sleep', '60'], {}, file_actions=[(os.POSIX_SPAWN_CLOSE, 1)]))"
        orphan = int(subprocess.run([sys.executable, "-Ic", script], stdout=subprocess.PIPE, check=True, timeout=20).stdout)
        os.kill(orphan, signal.SIGKILL)
        assert os.waitpid(orphan, 0)[1] == signal.SIGKILL

    def test_what_a_killed_run_left_is_swept(self, run: isolation.Run) -> None:
        """Two runs side by side spare each other; the second is killed, and a third sweeps after it."""
        second, left = start_a_run()
        group = cgroup.ROOT / left.name
        assert left.is_dir()
        assert cgroup.all_processes(group) == {second}
        kill(second)
        here = os.open(left, os.O_PATH)
        for _ in range(sys.getrecursionlimit() + 100):  # deeper than shutil.rmtree gets
            os.mkdir("deep", dir_fd=here)
            above, here = here, os.open("deep", os.O_PATH, dir_fd=here)
            os.close(above)
        os.close(here)
        third, directory = start_a_run()
        assert not left.exists()
        assert not group.exists()
        assert run.directory.is_dir()
        kill(third)
        shutil.rmtree(directory)
        cgroup.remove(cgroup.ROOT / directory.name)

    def test_paths_are_private_and_short(self, paths: Paths, run: isolation.Run, journal: Journal) -> None:
        assert paths.root_dir.is_relative_to(run.directory)
        assert len(os.fsencode(paths.monitor_socket)) < 108  # sun_path, unix(7)
        assert journal.open_intents() == []


def left_by(act: Callable[[], object]) -> str:
    """What the audit says after *act*; it must say something, and what was left must be gone then."""
    before = leaks.take()
    act()
    with pytest.raises(AssertionError, match="left behind") as caught:
        leaks.settle(before, patience_seconds=0.05)
    return str(caught.value)


@root
class TestLeaks:
    def test_a_mount(self, tmp_path: Path) -> None:
        said = left_by(lambda: mount.bind("/proc", tmp_path, recursive=False))
        assert "mount" in said
        assert str(tmp_path) in said
        assert not os.path.ismount(tmp_path)

    def test_a_changed_mount(self, tmp_path: Path) -> None:
        mount.bind("/proc", tmp_path, recursive=False)
        assert "shared:" in left_by(lambda: mount.set_propagation(tmp_path, "shared"))

    @requires.requires("cgroup2")
    def test_a_process_in_a_cgroup(self) -> None:
        group = cgroup.ROOT / "left" / "below"

        def leave() -> None:
            group.mkdir(parents=True)
            (group / "cgroup.procs").write_text(str(os.posix_spawn("/bin/sleep", ["sleep", "60"], {})))

        said = left_by(leave)
        assert "cgroup /sys/fs/cgroup/left/below" in said
        assert f"child of {os.getpid()}: sleep 60" in said
        assert not group.parent.exists()

    @requires.requires("cgroup2")
    def test_an_orphan(self) -> None:
        script = "import os\nos.posix_spawn('/bin/sleep', ['sleep', '60'], {})"
        assert "process" in left_by(lambda: subprocess.run([sys.executable, "-Ic", script], check=True, timeout=20))

    @requires.requires("ip")
    def test_a_link_and_the_namespace_it_is_in(self) -> None:
        ip = requires.program("ip")
        subprocess.run([ip, "link", "add", "left0", "type", "veth", "peer", "name", "left1"], check=True, timeout=20)
        subprocess.run([ip, "link", "del", "left0"], check=True, timeout=20)
        before = leaks.take()
        subprocess.run([ip, "link", "add", "left0", "type", "bridge"], check=True, timeout=20)
        assert leaks.take() - before == {("link", "left0")}
        subprocess.run([ip, "link", "del", "left0"], check=True, timeout=20)

    @requires.requires("nft")
    def test_nftables_objects(self) -> None:
        nft = requires.program("nft")
        before = leaks.take()
        rules = "table ip left { chain out { type filter hook output priority 0; counter; }; }"
        subprocess.run([nft, rules], check=True, timeout=20)
        new = leaks.take() - before
        assert {kind for kind, _ in new} == {"table", "chain", "rule"}
        assert ("chain", "left out") in new
        subprocess.run([nft, "delete table ip left"], check=True, timeout=20)

    def test_a_descriptor(self) -> None:
        held: list[int] = []
        assert "/dev/zero" in left_by(lambda: held.append(os.open("/dev/zero", os.O_RDONLY)))
        os.close(held[0])

    def test_a_thread_in_another_namespace(self) -> None:
        from kernel._linux import lib

        stop = threading.Event()
        moved = threading.Event()

        def work() -> None:
            lib.unshare(lib.CLONE_NEWNET)
            moved.set()
            stop.wait()

        def leave() -> None:
            threading.Thread(target=work, name="wanderer").start()
            assert moved.wait(10)

        said = left_by(leave)
        stop.set()
        assert "thread wanderer" in said
        assert "namespace net:[" in said

    def test_what_ends_by_itself_is_no_leak(self) -> None:
        before = leaks.take()
        os.posix_spawn("/bin/sleep", ["sleep", "0.1"], {})
        leaks.settle(before)

    def test_the_audit_is_cheap(self) -> None:
        begun = time.perf_counter()
        for _ in range(10):
            leaks.settle(leaks.take())
        assert (time.perf_counter() - begun) / 10 < 0.015


class TestClient:
    @pytest.fixture
    def socket_path(self, paths: Paths) -> Iterator[Path]:
        """A server that knows two RPCs; each refuses a request it does not expect."""

        class Handler(grpc.GenericRpcHandler):
            def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
                return {
                    "/runtime.v1.RuntimeService/Version": grpc.unary_unary_rpc_method_handler(version),
                    "/runtime.v1.ImageService/StreamImages": grpc.unary_stream_rpc_method_handler(images),
                }.get(details.method)

        def version(request: bytes, context: grpc.ServicerContext) -> bytes:
            if api.VersionRequest.FromString(request).version != "v1":
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "which version?")
            return api.VersionResponse(runtime_name="probe").SerializeToString()

        def images(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            yield from (api.StreamImagesResponse().SerializeToString() for _ in range(3))

        with ThreadPoolExecutor() as threads:
            server = grpc.server(threads)
            server.add_generic_rpc_handlers((Handler(),))
            server.add_insecure_port(f"unix:{paths.socket}")
            server.start()
            yield paths.socket
            server.stop(None).wait()

    def test_the_request_chooses_the_call(self, socket_path: Path) -> None:
        with client.Client(socket_path) as call:
            call.wait_until_ready(10)
            assert call(api.VersionRequest(version="v1")).runtime_name == "probe"
            assert len(list(call.stream(api.StreamImagesRequest()))) == 3

    def test_a_refusal_is_raised(self, socket_path: Path) -> None:
        with client.Client(socket_path) as call, pytest.raises(grpc.RpcError) as caught:
            call(api.VersionRequest())
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == "which version?"

    def test_a_stream_is_not_awaited_as_one_answer(self, socket_path: Path) -> None:
        with client.Client(socket_path) as call, pytest.raises(TypeError, match="StreamImages answers with a stream"):
            call(api.StreamImagesRequest())
