"""Words of the command line that are understood as something else: ids that are paths, numbers that are none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.safety.bundle import Bundle
from tests.safety.engine import Refused, watched
from tests.safety.oci import Oci, OciContainer
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox")


@pytest.fixture
def running(oci: Oci, bundle: Bundle) -> Iterator[OciContainer]:
    bundle.script("exec sleep 100")
    with oci.create(bundle) as container:
        container.start()
        yield container


@pytest.mark.parametrize(
    ("user", "ids"),
    [("1", "1 0"), ("1:2", "1 2"), ("0", "0 0"), ("65534:65534", "65534 65534"), ("4294967294", "4294967294 0")],
)
def test_an_exec_is_who_it_is_said_to_be(running: OciContainer, user: str, ids: str) -> None:
    """CVE-2026-30892: "exec -u 1" ran as 0, the number having been taken for the length of something."""
    for flag in ("-u", "--user", f"--user={user}"):
        flags = (flag,) if "=" in flag else (flag, user)
        assert running.execute("sh", "-c", 'echo "$(id -u) $(id -g)"', flags=flags).lines == [ids], flag


@pytest.mark.parametrize(
    "user",
    [
        *(
            "",
            ":",
            "1:",
            ":1",
            "1:2:3",
            "-1",
            "+1",
            " 1",
            "1 ",
            "0x1",
            "1e3",
            "1_0",
            "\u0660",
            "\uff11",
            "\u00b2",
            "1\n",
            "root:",
            "nobody:x",
        ),
        *("4294967295", "4294967296", "18446744073709551616", "9" * 20, "9" * 5000, "1:4294967295", "1,2", "a" * 300),
    ],
)
def test_a_user_that_is_none_is_refused(running: OciContainer, user: str) -> None:
    """CVE-2026-30892, CVE-2026-46680, CVE-2024-40635: what is not understood whole is not understood."""
    result = running.execute("id", flags=("--user", user))
    assert result.code != 0, result
    assert "uid=" not in result.output


@pytest.mark.parametrize(
    "name",
    [
        *(
            "..",
            ".",
            "../x",
            "/x",
            "a/b",
            "a/../b",
            "",
            " ",
            "a b",
            "a\n",
            ".hidden",
            "-x/../y",
            "x" * 300,
            "ä",
            "a\x7f",
            "a:b",
            "~",
            "*",
        ),
        *("\x1b[2J", "a\\b", "a\tb", "$(true)", "a;b", "%00", "..%2f"),
    ],
)
def test_an_id_is_a_name_and_no_path(oci: Oci, bundle: Bundle, name: str) -> None:
    """CVE hardening of crun 1.28: the container's ID becomes a directory and a cgroup."""
    bundle.write()
    oci.root.mkdir(parents=True)
    with watched(oci.root, oci.root.parent, bundle.directory, "/sys/fs/cgroup/kernelet-oci") as changes:
        create = ["create", "--bundle", str(bundle.directory)]
        for words in (create, ["state"], ["start"], ["kill"], ["delete", "--force"], ["exec"]):
            result = oci.call(*words, "--", name, *(["true"] if words == ["exec"] else []))
            assert result.code != 0, (words, result)
        assert not changes()


def test_a_state_directory_of_links_is_not_followed(oci: Oci, bundle: Bundle, outside: Path) -> None:
    """CVE-2021-41103: a name that is a link elsewhere is no container, and nothing there is removed."""
    oci.root.mkdir(parents=True)
    (oci.root / "evil").symlink_to(outside)
    (outside / "state.json").write_text('{"id":"evil","bundle":"/","rootfs":"/","ociVersion":"1.0.0","created":"","pid":1}')
    bundle.write()
    create = ["create", "-b", str(bundle.directory), "evil"]
    for words in (["state", "evil"], ["kill", "evil", "KILL"], ["delete", "evil"], create):
        assert oci.call(*words).code != 0, words
    oci.call("delete", "--force", "evil")
    assert sorted(os.listdir(outside)) == ["secret", "state.json"]
    (oci.root / "evil").unlink()


def test_the_state_directory_is_nobody_elses(oci: Oci, running: OciContainer) -> None:
    """CVE-2021-41103, CVE-2024-25621: what is in there is the runtime's alone, from the beginning, whatever the umask."""
    directory = oci.root / running.name
    for place in (directory, *directory.rglob("*")):
        assert not place.lstat().st_mode & 0o077, (place, oct(place.lstat().st_mode))
    assert not oci.root.stat().st_mode & 0o022


def test_a_number_that_is_another_process_is_not_killed(oci: Oci, bundle: Bundle) -> None:
    """CVE-2019-5736's neighbour, pid reuse: a container that has ended, and whose number is somebody else's by now."""
    import json
    import subprocess

    bundle.script("exit 0")
    with oci.create(bundle) as container:
        container.start()
        container.finish()
        other = subprocess.Popen(["/bin/busybox", "sleep", "100"])
        try:
            place = oci.root / container.name / "state.json"
            record = json.loads(place.read_text())
            record["pid"] = other.pid
            place.write_text(json.dumps(record))
            assert container.state()["status"] == "stopped"
            assert oci.call("kill", container.name, "KILL").code != 0
            assert oci.call("exec", container.name, "true").code != 0
            assert oci.call("delete", "--force", container.name).code == 0
            assert other.poll() is None
        finally:
            other.kill()
            other.wait()


@pytest.mark.parametrize("group", ["..", "../..", "/", "/..", "../../pytest", "/pytest", "a/../../..", "x/../../y"])
def test_an_exec_stays_in_its_containers_cgroup(running: OciContainer, group: str) -> None:
    """Cgroup escapes (crun >= 1.28): exec --cgroup names one below the container's own."""
    result = running.execute("cat", "/proc/self/cgroup", flags=("--cgroup", group))
    assert result.code != 0 or result.lines[-1] == "0::/", result
    assert ".." not in result.output or result.code != 0


def test_an_exec_cannot_stand_in_a_descriptor(running: OciContainer) -> None:
    """CVE-2024-21626: exec --cwd /proc/self/fd/N."""
    for number in (*range(3, 24), 128, 600):
        assert running.execute("pwd", flags=("--cwd", f"/proc/self/fd/{number}")).code != 0


@pytest.mark.parametrize(
    "words",
    [
        ["kill", "{}", "9" * 5000],
        ["kill", "{}", "\u00b2"],
        ["kill", "{}", "SIGRTMIN+99999"],
        ["kill", "{}", "SIGRTMIN+\u00b2"],
        ["kill", "{}", "-1"],
        ["kill", "{}", "SIG_BLOCK"],
        ["kill", "{}", ""],
        ["exec", "--preserve-fds", "9" * 5000, "{}", "true"],
        ["exec", "--preserve-fds", "\u00b2", "{}", "true"],
        ["exec", "--preserve-fds", "1000000", "{}", "true"],
        ["exec", "--env", "A=\udcff", "{}", "env"],
        ["exec", "--cap", "CAP_FLY", "{}", "true"],
        ["exec", "{}"],
        ["exec", "{}", ""],
        ["exec", "--process", "/etc/passwd", "{}"],
        ["exec", "--process", "/nonexistent", "{}"],
        ["exec", "--process", "/", "{}"],
        ["update", "--memory", "9" * 5000, "{}"],
        ["update", "--resources", "/etc/passwd", "{}"],
        ["update", "--cpu-shares", "\u00b2", "{}"],
        ["ps", "{}", "--", "; true"],
        ["events", "--stats", "--interval", "x", "{}"],
        ["--log-format", "xml", "list"],
        ["--root"],
    ],
)
def test_words_out_of_all_measure_are_refused_in_words(running: OciContainer, words: list[str]) -> None:
    """P16, P11: never a traceback, whatever a caller says."""
    running.engine.call(*(running.name if word == "{}" else word for word in words))  # fails on a fault of its own
    assert running.state()["status"] == "running"


def test_what_was_killed_at_its_first_step_can_be_deleted(oci: Oci, bundle: Bundle) -> None:
    """P13: a directory without a state has no container to speak of; the name is free after delete --force."""
    for name, content in (("nothing", None), ("half", b'{"id":')):
        (oci.root / name).mkdir(parents=True)
        if content is not None:
            (oci.root / name / "state.json.new").write_bytes(content)
        assert oci.call("state", name).code != 0
        assert oci.call("delete", "--force", name).code == 0
        assert not (oci.root / name).exists()


def test_a_directory_of_somebody_elses_is_not_removed(oci: Oci) -> None:
    """P13, CVE-2021-41103: only what can be ours is."""
    (oci.root / "theirs/data").mkdir(parents=True)
    oci.call("delete", "--force", "theirs")
    assert (oci.root / "theirs/data").is_dir()
    (oci.root / "theirs/data").rmdir()
    (oci.root / "theirs").rmdir()


@pytest.mark.parametrize("mask", [0, 0o777])
def test_the_callers_umask_is_not_the_states(oci: Oci, bundle: Bundle, mask: int) -> None:
    """CVE-2021-41103, CVE-2024-25621: directories above the state are no more everybody's than the state is."""
    deep = Oci(oci.root / "a/b")
    before = os.umask(mask)
    try:
        with deep.create(bundle) as container:
            for place in (deep.root, deep.root.parent, deep.root / container.name):
                assert not place.stat().st_mode & 0o022, place
    finally:
        os.umask(before)
    deep.root.rmdir()
    deep.root.parent.rmdir()
    deep.root.parent.parent.rmdir()


def test_a_start_that_was_refused_can_be_tried_again(oci: Oci, bundle: Bundle) -> None:
    """P13: what failed half-way has left its name free."""
    bundle.process.args = ["/nonexistent"]
    bundle.write()
    for _ in range(3):
        assert oci.call("create", "--bundle", str(bundle.directory), "again").code != 0
    with pytest.raises(Refused):
        oci.create(bundle)
