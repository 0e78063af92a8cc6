"""The properties of ``process``: who the program is, what it may do, in which surroundings it begins."""

from __future__ import annotations

import os
import platform
from typing import Any

import pytest

from tests.conformance.oci.bundle import CAPABILITIES, map_ids
from tests.conformance.oci.container import Container
from tests.support.requires import requires

CAPABILITY_NUMBERS = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_NET_RAW": 13,
}


def status_of(container: Container) -> dict[str, str]:
    """The container's /proc/self/status, of a process that is no child of a shell."""
    lines = container.run(["cat", "/proc/self/status"]).lines
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def mask(*names: str) -> int:
    return sum(1 << CAPABILITY_NUMBERS[name] for name in names)


def test_args_are_passed_as_they_are(container: Container) -> None:
    words = ["printf", "<%s>", "a b", "", "$HOME", "'\"\\", "\ttab", "käse"]
    assert container.run(words).output == "<a b><><$HOME><'\"\\><\ttab><käse>"


def test_args_need_a_program(container: Container) -> None:
    container.process["args"] = []
    assert container.create(expect=None).code != 0
    assert not container.exists()


def test_the_program_is_looked_for_in_the_containers_path(container: Container) -> None:
    (container.rootfs / "data/tool").write_text("#!/bin/sh\necho found\n")
    (container.rootfs / "data/tool").chmod(0o755)
    container.process["env"] = ["PATH=/nowhere:/data:/bin"]
    assert container.run(["tool"]).output == "found\n"


def test_a_file_that_may_not_be_executed_is_passed_over(container: Container) -> None:
    for name, mode in (("data", 0o644), ("tmp", 0o755)):
        (container.rootfs / name / "tool").write_text("#!/bin/sh\necho from $0\n")
        (container.rootfs / name / "tool").chmod(mode)
    container.process["env"] = ["PATH=/data:/tmp:/bin"]
    assert container.run(["tool"]).output == "from /tmp/tool\n"


def test_env_is_what_it_says_and_nothing_of_the_callers(container: Container) -> None:
    container.process["env"] = ["PATH=/bin", "HOME=/data", "EMPTY=", "EQUALS=a=b", "SPACE= x "]
    container.set_program(["env"])
    container.save()
    done = container.call("run", "--bundle", str(container.bundle), container.id, CALLERS="seen")
    assert set(done.lines) == {"PATH=/bin", "HOME=/data", "EMPTY=", "EQUALS=a=b", "SPACE= x "}


def test_cwd_is_where_it_begins(container: Container) -> None:
    container.process["cwd"] = "/data"
    assert container.run(["pwd"]).output == "/data\n"


def test_a_cwd_through_a_link_stays_inside(container: Container) -> None:
    (container.rootfs / "link").symlink_to("/data")
    container.process["cwd"] = "/link"
    assert container.run(["pwd", "-P"]).output == "/data\n"


def test_a_relative_cwd_is_refused(container: Container) -> None:
    container.process["cwd"] = "data"
    assert container.create(expect=None).code != 0
    assert not container.exists()


def test_a_cwd_that_is_no_directory_is_refused(container: Container) -> None:
    container.process["cwd"] = "/etc/passwd"
    assert container.run(["true"], expect=None).code != 0


def test_user_and_groups_are_as_written(container: Container) -> None:
    container.process["user"] = {"uid": 1000, "gid": 2000, "additionalGids": [33, 50000]}
    status = status_of(container)
    assert status["Uid"].split() == ["1000"] * 4
    assert status["Gid"].split() == ["2000"] * 4
    assert sorted(status["Groups"].split()) == ["33", "50000"]


def test_root_has_no_groups_of_the_callers(container: Container) -> None:
    assert status_of(container)["Groups"].split() in ([], ["0"])


@pytest.mark.parametrize(("umask", "seen"), [(0o027, "0027"), (0o077, "0077"), (0, "0000")])
def test_umask_is_set(container: Container, umask: int, seen: str) -> None:
    container.process["user"]["umask"] = umask
    assert status_of(container)["Umask"] == seen


def test_the_umask_of_the_caller_is_not_seen(container: Container) -> None:
    before = os.umask(0o077)
    try:
        assert status_of(container)["Umask"] == "0022"
    finally:
        os.umask(before)


def test_capabilities_are_the_five_sets(container: Container) -> None:
    container.process["capabilities"] = {
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_NET_RAW"],
        "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
        "effective": ["CAP_CHOWN", "CAP_KILL"],
        "inheritable": ["CAP_KILL", "CAP_NET_RAW"],
        "ambient": ["CAP_KILL"],
    }
    container.process["user"] = {"uid": 1000, "gid": 1000}
    # execve by another user than root keeps the ambient ones: P' = F(permitted) & ... | ambient (capabilities(7)).
    status = status_of(container)
    assert int(status["CapBnd"], 16) == mask("CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_NET_RAW")
    assert int(status["CapInh"], 16) == mask("CAP_KILL", "CAP_NET_RAW")
    assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapAmb")} == {mask("CAP_KILL")}


def test_capabilities_of_root_are_the_bounding_set(container: Container) -> None:
    status = status_of(container)
    expected = mask(*CAPABILITIES)
    assert {int(status[name], 16) for name in ("CapBnd", "CapPrm", "CapEff")} == {expected}
    assert (int(status["CapInh"], 16), int(status["CapAmb"], 16)) == (0, 0)


def test_no_capabilities_are_none(container: Container) -> None:
    container.process["capabilities"] = {}
    status = status_of(container)
    assert {int(status[name], 16) for name in ("CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb")} == {0}


def test_a_capability_that_is_unknown_does_not_fail(container: Container) -> None:
    """config.md: "any value which cannot be mapped to a relevant kernel interface ... MUST be logged", not an error."""
    container.process["capabilities"]["bounding"].append("CAP_NONSENSE")
    container.run("true")


@pytest.mark.parametrize("wanted", [True, False])
def test_no_new_privileges(container: Container, wanted: bool) -> None:
    container.process["noNewPrivileges"] = wanted
    assert status_of(container)["NoNewPrivs"] == str(int(wanted))


def test_rlimits_are_set(container: Container) -> None:
    container.process["rlimits"] = [
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_STACK", "soft": 1 << 20, "hard": 2 << 20},
        {"type": "RLIMIT_CPU", "soft": 50, "hard": 60},
    ]
    limits = container.run(["cat", "/proc/self/limits"]).output
    found = {" ".join(words[:-3]): words[-3:-1] for words in (line.split() for line in limits.splitlines()[1:])}
    assert found["Max open files"] == ["100", "200"]
    assert found["Max core file size"] == ["0", "0"]
    assert found["Max stack size"] == [str(1 << 20), str(2 << 20)]
    assert found["Max cpu time"] == ["50", "60"]


@pytest.mark.parametrize(
    "wrong",
    [
        [{"type": "RLIMIT_NONSENSE", "soft": 1, "hard": 1}],
        [{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}],
        [{"type": "RLIMIT_CORE", "soft": 1, "hard": 1}, {"type": "RLIMIT_CORE", "soft": 2, "hard": 2}],
    ],
    ids=["unknown", "soft-above-hard", "twice"],
)
def test_wrong_rlimits_are_refused(container: Container, wrong: list[dict[str, Any]]) -> None:
    container.process["rlimits"] = wrong
    assert container.create(expect=None).code != 0
    assert not container.exists()


def test_the_oom_score_is_set(container: Container) -> None:
    container.process["oomScoreAdj"] = 321
    assert container.run(["cat", "/proc/self/oom_score_adj"]).output == "321\n"


def test_an_oom_score_that_is_not_set_stays_the_callers(container: Container) -> None:
    with open("/proc/self/oom_score_adj", encoding="ascii") as file:
        ours = file.read()
    assert container.run(["cat", "/proc/self/oom_score_adj"]).output == ours


def test_stdin_is_the_callers_and_no_other_file_is_open(container: Container) -> None:
    assert container.run(["ls", "/proc/self/fd"]).lines == ["0", "1", "2", "3"]  # the last is the directory that ls reads


@requires("machine x86_64")
def test_the_personality_is_another_architectures(container: Container) -> None:
    container.linux["personality"] = {"domain": "LINUX32"}
    assert container.run(["uname", "-m"]).output == "i686\n"
    assert platform.machine() == "x86_64"


def test_a_personality_that_is_unknown_is_refused(container: Container) -> None:
    container.linux["personality"] = {"domain": "NONSENSE"}
    assert container.create(expect=None).code != 0


def test_the_scheduler_is_set(container: Container) -> None:
    container.process["scheduler"] = {"policy": "SCHED_BATCH", "nice": 5}
    fields = container.run(["cat", "/proc/self/stat"]).output.rpartition(")")[2].split()
    assert (fields[16], fields[38]) == ("5", str(os.SCHED_BATCH))  # nice and policy, fields 19 and 41 (proc(5))


def test_a_scheduler_that_is_unknown_is_refused(container: Container) -> None:
    container.process["scheduler"] = {"policy": "SCHED_NONSENSE"}
    assert container.create(expect=None).code != 0


def test_a_mapped_root_is_another_user_outside(container: Container) -> None:
    map_ids(container.config)
    container.launch("sleep 100")
    assert os.stat(f"/proc/{container.state()['pid']}").st_uid == 100000
