"""The command line itself: what it takes, says and leaves, command by command, on the real kernel."""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import InvalidArgument
from runtime.oci.command import COMMANDS
from runtime.oci.exec import parse_user
from runtime.oci.kill import parse_signal
from tests.support import cgroup, wait
from tests.support.oci import CommandLine, environment
from tests.support.requires import program


def received(listener: socket.socket) -> tuple[bytes, int]:
    """The message and the descriptor that come over the next connection to *listener*."""
    connection, _ = listener.accept()
    with connection:
        message, control, _, _ = connection.recvmsg(64, socket.CMSG_SPACE(4))
    files = array.array("i")
    files.frombytes(control[0][2])
    return message, files[0]


@pytest.fixture
def listener(tmp_path: Path) -> socket.socket:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(tmp_path / "socket"))
        opened.listen()
        yield opened  # type: ignore[misc]


def test_version_is_in_the_form_that_go_runc_parses(oci: CommandLine) -> None:
    lines = oci.call("--version").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["kernelet-oci", "commit:", "spec:"]
    assert lines[0].startswith("kernelet-oci version ")


def test_an_id_is_used_once_and_its_life_has_an_order(oci: CommandLine) -> None:
    oci.call("create", "web")
    assert "container with given ID already exists" in oci.refusal("create", "web")
    oci.call("start", "web")
    assert "cannot start a container in the running state" in oci.refusal("start", "web")
    assert "that is not stopped: running" in oci.refusal("delete", "web")
    oci.call("kill", "web", "KILL")
    wait.until(lambda: oci.state("web")["status"] == "stopped")
    assert oci.state("web")["pid"] == 0
    assert "container not running" in oci.refusal("kill", "web", "KILL")
    assert "cannot start a container that has stopped" in oci.refusal("start", "web")
    assert oci.call("exec", "web", "true", may_fail=True).returncode == 255
    oci.call("delete", "web")
    for command in ("state", "start", "kill", "delete", "ps"):
        assert "container does not exist" in oci.refusal(command, "web")


def test_a_created_one_can_be_killed_or_deleted(oci: CommandLine) -> None:
    oci.call("create", "web")
    oci.call("kill", "web", "9")
    wait.until(lambda: oci.state("web")["status"] == "stopped")
    oci.call("delete", "web")
    oci.call("create", "web")
    oci.call("delete", "web")
    assert os.listdir(oci.root) == []


def test_delete_force_takes_what_there_is(oci: CommandLine) -> None:
    oci.call("delete", "--force", "nobody")
    oci.call("run", "--detach", "web")
    oci.call("delete", "web", "--force")
    assert os.listdir(oci.root) == []


def test_config_may_change_after_create(oci: CommandLine) -> None:
    oci.call("create", "web")
    (oci.bundle / "config.json").write_text("no longer a document")
    oci.call("start", "web")
    assert oci.call("exec", "web", "cat", "/proc/1/cmdline").stdout == "sleep\x001000\x00"


def test_the_caller_adopts_the_init(oci: CommandLine) -> None:
    oci.call("create", "--pid-file", str(oci.bundle / "pid"), "web")
    pid = int((oci.bundle / "pid").read_text())
    assert oci.state("web")["pid"] == pid
    status = Path(f"/proc/{pid}/status").read_text()
    assert f"PPid:\t{os.getpid()}\n" in status  # pytest is the nearest subreaper


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-such-program", 'exec: "no-such-program": executable file not found in $PATH'),
        ("/no/such", 'exec: "/no/such": stat /no/such: no such file or directory'),
        ("/etc", 'exec: "/etc": is a directory'),
        ("/etc/passwd", 'exec: "/etc/passwd": permission denied'),
    ],
)
def test_what_cannot_be_executed_is_not_created(oci: CommandLine, name: str, message: str) -> None:
    oci.configure(name)
    assert message in oci.refusal("create", "web")
    assert os.listdir(oci.root) == []
    assert not (cgroup.ROOT / "kernelet-oci/web").exists()


def test_a_failing_step_is_named_and_nothing_is_left(oci: CommandLine) -> None:
    oci.configure("true", change=lambda config: config["process"].update(cwd="/etc/passwd"))
    said = oci.refusal("create", "web")
    assert "/etc/passwd" in said
    oci.configure("true", change=lambda config: config["mounts"].append({"destination": "/x", "type": "nosuchfs"}))
    assert "nosuchfs" in oci.refusal("create", "web")
    assert os.listdir(oci.root) == []


def test_what_a_killed_create_leaves_is_a_stopped_container(oci: CommandLine) -> None:
    hook = {"path": "/bin/sh", "args": ["sh", "-c", "kill -KILL $PPID"]}
    oci.configure("sleep", "1000", change=lambda config: config.update(hooks={"createRuntime": [hook]}))
    assert oci.call("create", "web", may_fail=True).returncode == -signal.SIGKILL
    group = cgroup.ROOT / "kernelet-oci/web"
    waiting = (group / "cgroup.procs").read_text().split()
    assert len(waiting) == 1
    assert oci.state("web")["status"] == "stopped"
    assert "container not running" in oci.refusal("kill", "web")
    oci.call("delete", "web")
    assert not group.exists()
    assert os.listdir(oci.root) == []
    os.waitpid(int(waiting[0]), 0)


def test_of_many_who_create_one_container_one_does(oci: CommandLine) -> None:
    command = oci.words("create", "web")
    files = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = [subprocess.Popen(command, cwd=oci.bundle, env=environment(), **files) for _ in range(6)]
    assert sorted(each.wait(60) for each in started) == [0, 1, 1, 1, 1, 1]
    assert oci.state("web")["status"] == "created"
    oci.call("start", "web")


def test_errors_go_to_the_log_as_json(oci: CommandLine) -> None:
    log = oci.bundle / "log.json"
    oci.refusal("--log", str(log), "--log-format", "json", "state", "web")
    line = json.loads(log.read_text())
    assert (line["level"], line["msg"]) == ("error", "container web: container does not exist")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--nosuch",), "flag provided but not defined: -nosuch"),
        (("create", "--nosuch", "web"), "flag provided but not defined: -nosuch"),
        (("nosuch",), "No help topic for 'nosuch': no such command"),
        (("create",), '"create" requires exactly 1 argument(s)'),
        (("state", "a", "b"), '"state" takes at most 1 argument(s)'),
        (("create", "../web"), "invalid container ID format"),
        (("--log-format", "xml", "list"), "must be text or json"),
        (("kill", "web", "SIGNOSUCH"), 'unknown signal "SIGNOSUCH"'),
        (("list", "--format", "xml"), "must be table or json"),
    ],
)
def test_a_wrong_use_is_told(oci: CommandLine, words: tuple[str, ...], message: str) -> None:
    assert message in oci.refusal(*words)


def test_help_is_there_for_each_command(oci: CommandLine) -> None:
    assert oci.call("-h").stdout.startswith("NAME:\n   kernelet-oci - ")
    for command in COMMANDS:
        said = oci.call(command, "--help").stdout
        assert said.startswith(f"NAME:\n   kernelet-oci {command} - ")
        assert "\nFLAGS:\n" in said


def test_debug_says_what_is_done(oci: CommandLine) -> None:
    log = oci.bundle / "log"
    oci.configure("true")
    assert 'level=debug msg="create web: ' in oci.call("--debug", "run", "web").stderr
    oci.call("--debug", "--log", str(log), "run", "web")
    assert "level=debug" in log.read_text()


def test_a_root_that_is_asked_for_must_be_there_to_be_listed(oci: CommandLine) -> None:
    assert "there is no such directory" in oci.refusal("list")
    oci.root.mkdir()
    assert oci.call("list", "-q").stdout == ""


def test_a_frozen_cgroup_is_not_moved_into(oci: CommandLine) -> None:
    group = cgroup.ROOT / "kernelet-oci/web"
    group.mkdir(parents=True)
    (group / "cgroup.freeze").write_text("1")
    assert "container's cgroup unexpectedly frozen" in oci.refusal("create", "web")
    group.rmdir()
    group.parent.rmdir()


@pytest.mark.parametrize(
    ("env", "uid", "seen"),
    [
        (["A=1"], 0, ["A=1", "HOME=/root"]),
        (["A=1", "B=2", "A=3"], 1000, ["A=3", "B=2", "HOME=/home/user"]),
        (["HOME="], 12345, ["HOME=/"]),
        (["HOME=/x", "HOME="], 0, ["HOME=/root"]),
        (["HOME=", "HOME=/override"], 0, ["HOME=/override"]),
    ],
)
def test_the_environment_has_each_name_once_and_a_home(oci: CommandLine, env: list[str], uid: int, seen: list[str]) -> None:
    oci.configure("/usr/bin/env", change=lambda config: config["process"].update(env=env, user={"uid": uid, "gid": 0}))
    assert sorted(oci.call("run", "web").stdout.split()) == sorted(seen)
    (oci.bundle / "process.json").write_text(
        json.dumps({"args": ["/usr/bin/env"], "env": env, "user": {"uid": uid, "gid": 0}, "cwd": "/"})
    )
    oci.configure("sleep", "1000")
    oci.call("run", "--detach", "web")
    assert sorted(oci.call("exec", "--process", "process.json", "web").stdout.split()) == sorted(seen)


def test_run_is_all_of_it(oci: CommandLine) -> None:
    oci.configure("sh", "-c", "read line; echo got $line; exit 7")
    done = oci.call("run", "web", given="text\n", may_fail=True)
    assert (done.stdout, done.returncode) == ("got text\n", 7)
    assert os.listdir(oci.root) == []
    oci.configure("sh", "-c", "kill -KILL $$; sleep 10")
    oci.call("run", "--keep", "web", may_fail=True)
    assert oci.state("web")["status"] in ("stopped", "running")  # the first process cannot kill itself


def test_run_passes_signals_on(oci: CommandLine) -> None:
    oci.configure("sh", "-c", "trap 'exit 5' USR1; echo ready; while true; do sleep 0.1; done")
    with oci.start("run", "web") as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGUSR1)
        assert running.wait(20) == 5
    oci.configure("sleep", "1000")
    with oci.start("run", "web") as running:
        wait.until(lambda: oci.call("state", "web", may_fail=True).stdout.count('"running"'), 10)
        oci.call("kill", "web", "KILL")
        assert running.wait(20) == 128 + signal.SIGKILL


def test_run_in_the_foreground_reaps_what_is_left_to_it(oci: CommandLine) -> None:
    oci.configure("sh", "-c", "sleep 0.3", change=lambda config: config["linux"]["namespaces"].pop(0))
    oci.call("run", "web")


def test_exec_is_what_its_flags_say(oci: CommandLine) -> None:
    oci.call("run", "--detach", "web")
    script = "id -u; id -g; id -G; pwd; echo $A; echo $HOME; grep NoNewPrivs /proc/self/status"
    flags = ("--user", "1000:33", "-g", "7", "--cwd", "/tmp", "--env", "A=b", "--no-new-privs")
    lines = oci.call("exec", *flags, "web", "sh", "-c", script).stdout.splitlines()
    assert lines == ["1000", "33", "33 7", "/tmp", "b", "/home/user", "NoNewPrivs:\t1"]
    assert oci.call("exec", "web", "sh", "-c", "exit 3", may_fail=True).returncode == 3
    assert oci.call("exec", "web", "cat", given="through\n").stdout == "through\n"


def test_exec_takes_a_process(oci: CommandLine) -> None:
    oci.call("run", "--detach", "web")
    process = {"user": {"uid": 5, "gid": 6}, "args": ["sh", "-c", "id -u; env"], "env": ["PATH=/bin", "HOME=/x"], "cwd": "/"}
    (oci.bundle / "process.json").write_text(json.dumps(process))
    said = oci.call("exec", "--process", "process.json", "web").stdout.splitlines()
    assert said[0] == "5"
    assert {"PATH=/bin", "HOME=/x"} <= set(said)
    (oci.bundle / "process.json").write_text(json.dumps(process | {"cwd": "relative"}))
    failed = oci.call("exec", "--process", "process.json", "web", may_fail=True)
    assert "process.cwd" in failed.stderr
    assert failed.returncode == 255


def test_a_detached_exec_goes_on(oci: CommandLine) -> None:
    oci.call("run", "--detach", "web")
    oci.call("exec", "--detach", "--pid-file", str(oci.bundle / "pid"), "web", "sleep", "100")
    pid = int((oci.bundle / "pid").read_text())
    assert json.loads(oci.call("ps", "--format", "json", "web").stdout) == [oci.state("web")["pid"], pid]
    rows = [line.split() for line in oci.call("ps", "web").stdout.splitlines()]
    assert rows[0][:3] == ["UID", "PID", "PPID"]
    assert [row[-2:] for row in rows[1:]] == [["sleep", "1000"], ["sleep", "100"]]
    assert "columns cannot be chosen" in oci.refusal("ps", "web", "-o", "pid")
    os.kill(pid, signal.SIGKILL)


def test_exec_in_a_paused_container_is_refused(oci: CommandLine) -> None:
    oci.call("run", "--detach", "web")
    oci.call("pause", "web")
    assert "--ignore-paused" in oci.call("exec", "web", "true", may_fail=True).stderr
    oci.call("resume", "web")


def test_exec_enters_a_cgroup_below(oci: CommandLine) -> None:
    oci.call("run", "--detach", "web")
    (cgroup.ROOT / "kernelet-oci/web/below").mkdir()
    said = oci.call("exec", "--cgroup", "below", "web", "cat", "/proc/self/cgroup").stdout
    assert said.splitlines()[-1].endswith("/below")
    assert "no such file or directory" in oci.call("exec", "--cgroup", "/nosuch", "web", "true", may_fail=True).stderr
    assert "components are not allowed" in oci.call("exec", "--cgroup", "../../pytest", "web", "true", may_fail=True).stderr


def test_list_has_them_all(oci: CommandLine) -> None:
    oci.call("create", "b")
    oci.call("run", "--detach", "a")
    listed: list[dict[str, Any]] = json.loads(oci.call("list", "--format", "json").stdout)
    assert [(each["id"], each["status"], each["owner"]) for each in listed] == [
        ("a", "running", "root"),
        ("b", "created", "root"),
    ]
    assert {"ociVersion", "pid", "bundle", "rootfs", "created"} <= listed[0].keys()
    assert oci.call("list", "-q").stdout == "a\nb\n"
    assert oci.call("list").stdout.splitlines()[0].split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]


def test_descriptors_are_handed_down(oci: CommandLine) -> None:
    reader, writer = os.pipe()
    oci.configure("sh", "-c", "cat <&3; cat <&10; echo $LISTEN_FDS $LISTEN_PID; ls /proc/self/fd | sort -n | tr '\\n' ' '")
    os.write(writer, b"first ")
    os.close(writer)
    with open("/etc/hostname", "rb") as file:
        given = {3: reader, **dict.fromkeys(range(4, 10), reader), 10: file.fileno()}
        keep = [os.dup2(source, number + 200) for number, source in given.items()]
        script = "".join(f"exec {number}<&{number + 200} {number + 200}<&-; " for number in given)
        command = oci.words("run", "--preserve-fds", "6", "web")
        done = subprocess.run(
            ["bash", "-c", f'{script} exec "$@"', "bash", *command],
            pass_fds=keep, cwd=oci.bundle, capture_output=True, text=True, check=False,
            env={**os.environ, "LISTEN_FDS": "2"},
        )  # fmt: skip
    for number in (*keep, reader):
        os.close(number)
    lines = done.stdout.splitlines()
    assert lines[0] == f"first {Path('/etc/hostname').read_text().strip()}", done.stderr
    assert lines[1] == "2 1"
    assert lines[2].split() == [str(number) for number in range(12)]  # 11 is what ls reads the directory by


def test_the_console_goes_to_the_socket(oci: CommandLine, listener: socket.socket) -> None:
    oci.configure(
        *("sh", "-c", "tty; stty size; read line; echo got $line"),
        change=lambda config: config["process"].update(terminal=True, consoleSize={"height": 11, "width": 22}),
    )
    assert "without setting console socket" in oci.refusal("create", "web")
    oci.call("create", "--console-socket", listener.getsockname(), "web")
    message, master = received(listener)
    assert message == b"/dev/ptmx"
    oci.call("start", "web")
    with open(master, "r+b", buffering=0) as terminal:
        terminal.write(b"typed\n")
        seen = b""
        wait.until(lambda: oci.state("web")["status"] == "stopped")
        while b"got typed" not in seen:
            seen += terminal.read(4096)
    assert {b"typed", b"/dev/pts/0", b"11", b"22"} <= set(seen.split())


def test_a_pidfd_goes_to_the_socket(oci: CommandLine, listener: socket.socket) -> None:
    oci.call("create", "--pidfd-socket", listener.getsockname(), "web")
    _, pidfd = received(listener)
    assert f"Pid:\t{oci.state('web')['pid']}\n" in Path(f"/proc/self/fdinfo/{pidfd}").read_text()
    os.close(pidfd)


def test_the_script_needs_nothing_of_its_environment(oci: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "planted").mkdir()
    for name in ("msgspec", "sitecustomize", "os", "runtime"):
        (tmp_path / "planted" / f"{name}.py").write_text("raise SystemExit(99)")
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path / "planted"), "PYTHONSTARTUP": "/nonexistent"}
    command = [program("kernelet-oci"), "--root", str(oci.root), "run", "--bundle", str(oci.bundle), "web"]
    oci.configure("echo", "through the script")
    (tmp_path / "link").symlink_to(command[0])
    for name in (command[0], str(tmp_path / "link")):
        done = subprocess.run(
            [name, *command[1:]], cwd=tmp_path / "planted", env=environment, capture_output=True, text=True, check=False
        )
        assert (done.stdout, done.returncode) == ("through the script\n", 0), done.stderr


@pytest.mark.parametrize(
    ("text", "user"), [("0", (0, None)), ("1000:33", (1000, 33)), ("4294967294", (4294967294, None)), ("007:0", (7, 0))]
)
def test_a_user_is_numbers(text: str, user: tuple[int, int | None]) -> None:
    assert parse_user(text) == user


@pytest.mark.parametrize(
    "text",
    ["", ":", "root", "1:", ":1", "-1", "+1", "1:-1", "1:2:3", " 1", "1 ", "0x0", "1e3", "4294967295", "\u0660", "1\n", "1_0"],
)
def test_what_is_no_user_never_becomes_one(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_user(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [("9", 9), ("KILL", 9), ("SIGKILL", 9), ("sigterm", 15), ("RTMIN+3", signal.SIGRTMIN + 3), ("0", 0), ("64", 64)],
)
def test_a_signal_has_names(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["", "65", "-9", "NOSUCH", "SIG_DFL", "RTMIN+", "RTMIN+x", "9.0"])
def test_what_is_no_signal_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="unknown signal"):
        parse_signal(text)
