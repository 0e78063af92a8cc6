"""The script that starts a container by hand makes the same container."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from runtime.container.shell import script
from runtime.errors import InvalidSpec
from runtime.spec import defaults, schema
from tests.support.requires import TREE

BUSYBOX = "/bin/busybox"
LOOK = """
cat /proc/self/mountinfo; echo =; hostname; id; pwd; umask; env; echo =
grep -E '^(Cap|NoNewPrivs|Groups|Uid|Gid)' /proc/self/status; echo =
cat /proc/self/limits; echo =; ls -ln /dev | sed 's/[A-Z][a-z][a-z] .*:.. / /'
echo =; cat /proc/1/cgroup; cat /proc/self/oom_score_adj
for kind in pid net mnt ipc uts cgroup; do readlink /proc/self/ns/$kind; done; ip addr
echo =; ls -l /proc/self/fd | grep -c '[0-9] ->'
"""


def spec(change: Callable[[schema.Spec], object] = lambda _: None) -> schema.Spec:
    capabilities = list(defaults.CAPABILITIES)
    made = schema.Spec(
        oci_version="1.0.2",
        root=schema.Root(path="rootfs"),
        hostname="by-hand",
        process=schema.Process(
            args=["sh", "-c", LOOK],
            env=["PATH=/bin", "WORDS=two words", "HOME=/home"],
            cwd="/work",
            no_new_privileges=True,
            oom_score_adj=500,
            capabilities=schema.Capabilities(bounding=capabilities, effective=capabilities, permitted=capabilities),
            rlimits=[schema.Rlimit(type="RLIMIT_NOFILE", soft=100, hard=200), schema.Rlimit(type="RLIMIT_CORE", soft=0, hard=0)],
        ),
        mounts=defaults.mounts(),
        linux=schema.Linux(
            namespaces=[schema.Namespace(type=kind) for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            masked_paths=list(defaults.MASKED_PATHS),
            readonly_paths=list(defaults.READONLY_PATHS),
            devices=defaults.devices(),
            sysctl={"net.ipv4.ip_forward": "1"},
            cgroups_path="/compared",
        ),
    )
    change(made)
    return made


def as_a_user(made: schema.Spec) -> None:
    """Another user with a capability of its own, a read-only root, a file and a directory of the host's, another mask."""
    assert made.process is not None and made.root is not None and made.process.capabilities is not None
    made.root.readonly = True
    made.process.user = schema.User(uid=1000, gid=1001, additional_gids=[7, 1001], umask=0o27)
    made.process.no_new_privileges = False
    kept = ["CAP_NET_BIND_SERVICE", "CAP_KILL"]
    made.process.capabilities = schema.Capabilities(
        bounding=kept, effective=kept, permitted=kept, inheritable=kept[:1], ambient=kept[:1]
    )
    made.mounts += [
        schema.Mount(destination="/etc/passwd", type="bind", source="/etc/passwd", options=["rbind", "ro", "nosuid"]),
        schema.Mount(destination="/share", type="bind", source="/usr/share", options=["bind", "rprivate", "ro", "noexec"]),
    ]
    made.linux.devices.append(schema.Device(path="/dev/net/tun", type="c", major=10, minor=200, file_mode=0o600, uid=7, gid=8))


def write_bundle(directory: Path, wanted: schema.Spec) -> Path:
    root = directory / "rootfs"
    (root / "work").mkdir(parents=True)
    (root / "bin").mkdir()
    shutil.copy(BUSYBOX, root / "bin/busybox")
    for name in ("sh", "cat", "hostname", "id", "env", "grep", "ls", "sed", "readlink", "ip", "tty"):
        os.link(root / "bin/busybox", root / "bin" / name)
    (directory / "config.json").write_bytes(msgspec.json.encode(wanted))
    return directory


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, cwd=TREE, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def comparable(printed: str) -> list[list[str]]:
    """What a container printed, without numbers that are another each time; mounts in any order."""
    mounts, *rest = (part.splitlines() for part in printed.split("=\n"))
    namespaces = re.compile(r":\[\d+\]")
    shown = sorted(" ".join(_mount(line)) for line in mounts)
    return [shown, *([namespaces.sub("", line) for line in part] for part in rest)]


def _mount(line: str) -> tuple[str, ...]:
    """Root, target, options, type, source and options of the file system, the options sorted."""
    before, after = line.split(" - ")
    root, target, options = before.split()[3:6]
    kind, source, of_super = after.split()
    return root, target, ",".join(sorted(options.split(","))), kind, source, ",".join(sorted(of_super.split(",")))


@pytest.mark.requires("root", "cgroup2")
@pytest.mark.parametrize("change", [lambda _: None, as_a_user], ids=["ordinary", "as a user"])
def test_by_hand_the_container_sees_what_it_sees_by_us(tmp_path: Path, change: Callable[[schema.Spec], object]) -> None:
    wanted = spec(change)
    bundle = write_bundle(tmp_path / "bundle", wanted)
    ours = comparable(
        run(sys.executable, "-m", "runtime.oci", "--root", tmp_path / "state", "run", "--bundle", bundle, "compared")
    )
    (tmp_path / "start.sh").write_text(script(wanted, bundle))
    by_hand = comparable(run("sh", tmp_path / "start.sh"))
    assert len(ours[0]) > 10
    assert by_hand == ours


def with_users(made: schema.Spec) -> None:
    made.linux.namespaces.append(schema.Namespace(type="user"))
    made.linux.uid_mappings = [
        schema.IdMapping(container_id=0, host_id=100000, size=1000),
        schema.IdMapping(container_id=1000, host_id=300000, size=10),
    ]
    made.linux.gid_mappings = [schema.IdMapping(container_id=0, host_id=200000, size=65536)]


@pytest.mark.requires("root", "cgroup2")
def test_a_user_namespace_by_hand(tmp_path: Path) -> None:
    """But for the devices, which the runtime makes on a file system of its own, and the script binds from the node."""
    wanted = spec(with_users)
    bundle = write_bundle(tmp_path / "bundle", wanted)
    for directory in (*tmp_path.parents[:2], tmp_path, bundle):
        directory.chmod(0o755)
    for path in (bundle / "rootfs", *(bundle / "rootfs").rglob("*")):
        os.chown(path, 100000, 200000)
    ours = comparable(
        run(sys.executable, "-m", "runtime.oci", "--root", tmp_path / "state", "run", "--bundle", bundle, "compared")
    )
    (tmp_path / "start.sh").write_text(script(wanted, bundle))
    by_hand = comparable(run("sh", tmp_path / "start.sh"))
    for seen in (ours, by_hand):
        seen[0] = [line for line in seen[0] if not re.search(r" /(dev|proc|sys)/", line)]
        del seen[4]  # the listing of /dev
    assert by_hand == ours


def test_what_no_tool_does_is_said() -> None:
    def ask(made: schema.Spec) -> None:
        assert made.process is not None
        made.process.terminal = True
        made.linux.seccomp = schema.Seccomp(default_action="SCMP_ACT_ALLOW")
        made.hooks.poststop = [schema.Hook(path="/bin/true")]

    text = script(spec(ask), Path("/bundle"))
    for name in ("hooks", "linux.seccomp", "process.terminal"):
        assert f"#   {name}" in text


def test_words_of_the_document_are_words_of_the_shell() -> None:
    def ask(made: schema.Spec) -> None:
        assert made.process is not None
        made.process.args = ["sh", "-c", "echo '$HOME' \"`id`\"\n"]
        made.hostname = "$(reboot)"

    text = script(spec(ask), Path("/a 'b"))
    assert "root='/a '\"'\"'b/rootfs'" in text
    assert "hostname '$(reboot)'" in text
    done = subprocess.run(["sh", "-n"], input=text, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


EVIL = (
    "$(reboot now)",
    "`reboot now`",
    "a'; reboot now; '",
    'a"; reboot now; "',
    "x\nreboot now\n",
    "\nINSIDE\nreboot now",
)


@pytest.mark.parametrize("evil", EVIL)
def test_no_string_of_the_document_becomes_a_command(evil: str) -> None:
    """Read as a shell would, each is one word, or a part of one, and none of them "reboot"."""

    def ask(made: schema.Spec) -> None:
        assert made.process is not None and made.root is not None
        made.hostname = made.domainname = made.root.path = evil
        made.process.cwd = f"/{evil}"
        made.process.args, made.process.env = [evil, evil], [f"A={evil}"]
        made.process.apparmor_profile = made.process.selinux_label = evil
        made.mounts.append(schema.Mount(destination=f"/{evil}", type=evil, source=evil, options=[evil]))
        made.mounts.append(schema.Mount(destination=f"/{evil}", type="bind", source=evil, options=["bind", evil]))
        made.linux.devices.append(schema.Device(path=f"/dev/{evil}", type="c"))
        made.linux.namespaces[1].path = f"/{evil}"
        made.linux.cgroups_path = f"/{evil}"
        made.linux.sysctl = {evil: evil}
        made.linux.masked_paths = made.linux.readonly_paths = [f"/{evil}"]

    text = script(spec(ask), Path(f"/bundle{evil}"))
    words = shlex.split(text, comments=True)
    assert [word for word in words if word in ("reboot", "now", "now)", "$(reboot", "`reboot", "now`", "now;")] == []
    assert sum(evil in word for word in words) >= 15
    done = subprocess.run(["sh", "-n"], input=text, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_spec_that_starts_nothing_has_no_script() -> None:
    with pytest.raises(InvalidSpec, match="process"):
        script(schema.Spec(oci_version="1.0.2"), Path("/bundle"))
