"""create, start, state, kill, delete: runtime.md's operations, the states between them, and what is refused in which."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conformance.oci.container import Container, Runtime
from tests.support import wait

WAITING = 'trap "exit 7" TERM; touch /data/ready; while :; do sleep 0.02; done'


def test_a_created_container_has_not_run_its_program(container: Container) -> None:
    container.create("touch /data/ran")
    assert container.status() == "created"
    assert not (container.rootfs / "data/ran").exists()
    container.start()
    assert container.wait() == 0
    assert (container.rootfs / "data/ran").exists()


def test_state_says_what_the_spec_lists(container: Container) -> None:
    container.config["annotations"] = {"org.example.key": "value"}
    container.create("sleep 100")
    state = container.state()
    assert state["ociVersion"].startswith("1.")
    assert (state["id"], state["status"]) == (container.id, "created")
    assert Path(state["bundle"]).samefile(container.bundle)
    assert state["annotations"] == {"org.example.key": "value"}
    assert os.path.samefile(f"/proc/{state['pid']}/root", f"/proc/{state['pid']}/root/.")


def test_states_follow_each_other(container: Container) -> None:
    container.create("sleep 100")
    seen = [container.status()]
    container.start()
    seen.append(container.status())
    container.kill()
    container.wait()
    seen.append(container.status())
    container.delete()
    assert seen == ["created", "running", "stopped"]
    assert not container.exists()


def test_the_pid_of_state_is_the_first_process(container: Container) -> None:
    container.launch(WAITING)
    wait.until((container.rootfs / "data/ready").exists)
    status = Path(f"/proc/{container.state()['pid']}/status").read_text()
    assert next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1] == "1"


def test_start_is_for_created_containers_alone(container: Container) -> None:
    container.launch("sleep 100")
    pid = container.state()["pid"]
    assert container.start(expect=None).code != 0
    assert (container.status(), container.state()["pid"]) == ("running", pid)
    container.kill()
    container.wait()
    assert container.start(expect=None).code != 0
    assert container.status() == "stopped"


@pytest.mark.parametrize("command", ["start", "state", "kill", "delete", "exec"])
def test_a_container_that_is_not_there_is_an_error(container: Container, command: str) -> None:
    words = {"kill": ["KILL"], "exec": ["true"]}.get(command, [])
    done = container.call(command, "nobody", *words, expect=None)
    assert done.code != 0
    assert done.errors


def test_an_id_is_used_once(container: Container) -> None:
    container.create("sleep 100")
    before = container.state()
    container.save()
    assert container.call("create", "--bundle", str(container.bundle), container.id, expect=None).code != 0
    assert container.state() == before


def test_an_id_is_free_again_after_delete(container: Container) -> None:
    for _ in range(2):
        container.launch("true")
        container.wait()
        container.delete()


def test_of_creates_at_once_one_succeeds(container: Container) -> None:
    container.set_program("sleep 100")
    container.save()
    codes: list[int] = []

    def create() -> None:
        codes.append(container.call("create", "--bundle", str(container.bundle), container.id, expect=None).code)

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    container.pids.append(container.state()["pid"])
    assert sorted(code != 0 for code in codes) == [False, True, True, True]
    container.start()
    assert container.status() == "running"


@pytest.mark.parametrize("name", ["../escape", "a/b", "..", ".", ""])
def test_an_id_that_is_no_name_is_refused(container: Container, name: str) -> None:
    container.save()
    done = container.call("create", "--bundle", str(container.bundle), name, expect=None)
    assert done.code != 0
    assert not container.root.exists() or not list(container.root.rglob("state.json"))
    assert sorted(os.listdir(container.directory)) in (["bundle"], ["bundle", "state"])


def test_create_needs_the_bundle(container: Container) -> None:
    done = container.call("create", "--bundle", str(container.directory / "nowhere"), container.id, expect=None)
    assert done.code != 0
    assert not container.exists()


@pytest.mark.parametrize("broken", ["", "{", "[]", '{"ociVersion": "1.0.2"', '{"ociVersion": 1}'])
def test_create_needs_a_document(container: Container, broken: str) -> None:
    (container.bundle / "config.json").write_text(broken)
    done = container.call("create", "--bundle", str(container.bundle), container.id, expect=None)
    assert done.code != 0
    assert not container.exists()


def test_an_unsupported_major_version_is_refused(container: Container) -> None:
    container.config["ociVersion"] = "2.0.0"
    assert container.create(expect=None).code != 0
    assert not container.exists()


def test_unknown_properties_are_ignored(container: Container) -> None:
    container.config["unknown"] = {"also": ["unknown"]}
    container.process["unknown"] = 1
    container.linux["unknown"] = "x"
    container.config["annotations"] = {"unknown.key": "value"}
    container.run("true")


def test_what_config_says_later_has_no_effect(container: Container) -> None:
    container.create("echo first > /data/said")
    container.process["args"] = ["sh", "-c", "echo second > /data/said"]
    container.config["hostname"] = "other"
    container.save()
    container.start()
    container.wait()
    assert container.read("data/said") == "first\n"


def test_config_may_be_gone_after_create(container: Container) -> None:
    container.create("echo first > /data/said")
    (container.bundle / "config.json").unlink()
    container.start()
    container.wait()
    assert container.read("data/said") == "first\n"
    container.delete()


def test_delete_is_refused_while_it_runs(container: Container) -> None:
    container.launch("sleep 100")
    assert container.delete(expect=None).code != 0
    assert container.status() == "running"


def test_a_forced_delete_kills(container: Container) -> None:
    container.launch("sleep 100")
    container.delete("--force")
    assert container.wait() == 128 + 9
    assert not container.exists()


def test_a_forced_delete_of_nothing_is_no_error(container: Container) -> None:
    container.call("delete", "--force", "nobody")


def test_a_created_container_can_be_killed(container: Container) -> None:
    container.create("touch /data/ran")
    container.kill("KILL")
    assert container.wait() == 128 + 9
    assert container.status() == "stopped"
    container.delete()
    assert not (container.rootfs / "data/ran").exists()


@pytest.mark.parametrize("name", ["TERM", "SIGTERM", "15"])
def test_kill_sends_the_signal_that_is_named(container: Container, name: str) -> None:
    container.launch(WAITING)
    wait.until((container.rootfs / "data/ready").exists)
    container.kill(name)
    assert container.wait() == 7


def test_kill_without_a_signal_is_term(container: Container) -> None:
    container.launch(WAITING)
    wait.until((container.rootfs / "data/ready").exists)
    container.call("kill", container.id)
    assert container.wait() == 7


def test_kill_of_an_unknown_signal_is_refused(container: Container) -> None:
    container.launch(WAITING)
    assert container.kill("NOTHING", expect=None).code != 0
    assert container.status() == "running"


def test_kill_of_a_stopped_container_is_refused(container: Container) -> None:
    container.launch("true")
    container.wait()
    assert container.kill("TERM", expect=None).code != 0
    assert container.status() == "stopped"


def test_the_pid_file_holds_the_pid(container: Container) -> None:
    file = container.directory / "pid"
    container.create("sleep 100", "--pid-file", str(file))
    assert file.read_text() == str(container.state()["pid"])


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 0), ("kill -KILL $$", 0)])
def test_run_ends_as_its_program_does(container: Container, script: str, code: int) -> None:
    """Process 1 of its namespace is deaf to signals of its own."""
    assert container.run(script, expect=None).code == code
    assert not container.exists()


def test_run_passes_the_output_on(container: Container) -> None:
    done = container.run("echo out; echo err >&2")
    assert (done.output, done.errors) == ("out\n", "err\n")


def test_a_run_in_the_foreground_can_be_worked_on(container: Container) -> None:
    container.set_program("touch /data/ready; sleep 100")
    container.save()
    with ThreadPoolExecutor() as thread:
        running = thread.submit(container.call, "run", "--bundle", str(container.bundle), container.id, expect=None)
        wait.until((container.rootfs / "data/ready").exists)
        assert container.exec("echo inside").output == "inside\n"
        container.delete("--force")
        assert running.result().code == 128 + 9
    assert not container.exists()


def test_a_detached_run_leaves_it_running(container: Container) -> None:
    container.run("sleep 100", "--detach", "--pid-file", str(container.directory / "pid"))
    container.pids.append(int((container.directory / "pid").read_text()))
    assert container.status() == "running"


@pytest.mark.parametrize("program", ["/nowhere", "nowhere", "/etc/passwd", "/tmp"])
def test_a_program_that_cannot_run_is_an_error(container: Container, program: str) -> None:
    done = container.run([program], expect=None)
    assert done.code != 0
    assert done.errors
    assert not container.exists()


def test_a_relative_root_is_the_bundles(container: Container) -> None:
    container.config["root"]["path"] = "./rootfs/"
    container.run("test -d /data")


def test_an_absolute_root_is_taken_as_it_is(container: Container) -> None:
    elsewhere = container.directory / "elsewhere"
    container.rootfs.rename(elsewhere)
    container.config["root"]["path"] = str(elsewhere)
    container.run("test -d /data")


def test_a_root_that_is_not_there_is_an_error(container: Container) -> None:
    container.config["root"]["path"] = "nowhere"
    done = container.create(expect=None)
    assert done.code != 0
    assert "nowhere" in done.errors
    assert not container.exists()


def test_list_names_them_all(container: Container) -> None:
    container.create("sleep 100")
    assert container.call("list", "-q").lines == [container.id]
    (entry,) = json.loads(container.call("list", "--format", "json").output)
    assert (entry["id"], entry["status"], entry["pid"]) == (container.id, "created", container.state()["pid"])
    assert container.id in container.call("list").output


def test_roots_do_not_meet(container: Container, runtime: Runtime) -> None:
    container.create("sleep 100")
    done = runtime.call("state", container.id, root=container.directory / "other", directory=container.directory)
    assert done.code != 0


def test_errors_are_json_lines_in_the_log(container: Container, runtime: Runtime) -> None:
    log = container.directory / "log"
    words = ("--log", str(log), "--log-format", "json", "state", "nobody")
    done = Runtime(runtime.name, (*runtime.command, *words[:4])).call(
        *words[4:], root=container.root, directory=container.directory
    )
    assert done.code != 0
    last = json.loads(log.read_text().splitlines()[-1])
    assert last["msg"]
    assert last["time"]
