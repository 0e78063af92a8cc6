"""What whoever starts the runtime has around it, and what a container must not get of that: variables, signals, limits.

The hazards of Python are told here too: it reads its environment at its start, ignores signals, imports late.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.node import Node
from runtime.paths import Paths
from runtime.spec import schema
from tests.safety.bundle import Bundle
from tests.safety.engine import Core, Engine
from tests.safety.oci import Oci
from tests.support.requires import TREE, requires

pytestmark = requires("root", "cgroup2", "busybox")

#: Of the caller; each would change what an interpreter, a linker or a C library does.
EVIL = {
    "PYTHONPATH": "{planted}",
    "PYTHONHOME": "{planted}",
    "PYTHONSTARTUP": "{planted}/sitecustomize.py",
    "PYTHONINSPECT": "1",
    "PYTHONMALLOC": "debug",
    "PYTHONWARNINGS": "error",
    "PYTHONDEVMODE": "1",
    "LC_ALL": "xx_YY.evil",
    "LANG": "tr_TR.ISO-8859-9",
    "LANGUAGE": "evil",
    "TMPDIR": "/nonexistent",
    "HOME": "/nonexistent",
    "COLUMNS": "-1",
    "TZ": "../../../etc/passwd",
    "LISTEN_PID": "1",
    "GCONV_PATH": "{planted}",
    "MALLOC_PERTURB_": "170",
    "NOTIFY_SOCKET": "/nonexistent",
    "BASH_ENV": "{planted}/x",
    "ENV": "{planted}/x",
}
#: Modules that an interpreter imports at its start or when something goes wrong, and ours.
MODULES = (
    *("sitecustomize", "usercustomize", "encodings", "codecs", "site", "os", "json", "msgspec", "traceback", "linecache"),
    *("tokenize", "kernel", "runtime", "prctl", "_prctl", "random", "socket", "select", "struct", "logging", "argparse"),
)


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A directory of modules that each leave a file "ran" behind."""
    directory = tmp_path / "planted"
    plant(directory, tmp_path / "ran")
    return directory


def plant(directory: Path, mark: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    text = f"open({str(mark)!r}, 'a').write(__name__ + '\\n')\nraise SystemExit(77)\n"
    for name in MODULES:
        (directory / f"{name}.py").write_text(text)
        if name in ("encodings", "kernel", "runtime", "msgspec", "json", "logging"):
            (directory / f"{name}.py").unlink()
            (directory / name).mkdir()
            (directory / name / "__init__.py").write_text(text)
            for inner in ("punycode", "idna", "latin_1", "utf_8", "oci", "fd", "errors"):
                (directory / name / f"{inner}.py").write_text(text)


@contextlib.contextmanager
def environment(planted: Path) -> Iterator[None]:
    """This process's own, as the daemon might have been given it."""
    before = dict(os.environ)
    os.environ.update({name: value.format(planted=planted) for name, value in EVIL.items()})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def test_a_container_has_the_environment_of_its_spec_alone(engine: Engine, bundle: Bundle, planted: Path) -> None:
    """P10: nothing of the caller's, before execve and after."""
    bundle.process.env = ["PATH=/bin", "ONLY=this", "HOME=/"]
    bundle.process.args = ["/bin/busybox", "env"]
    with environment(planted), engine.create(bundle) as container:
        assert Path(f"/proc/{container.pid}/environ").read_bytes() == b""
        container.start()
        assert container.finish().lines == bundle.process.env


def test_a_monitor_does_not_read_the_environment_of_whoever_starts_the_daemon(
    paths: Paths, planted: Path, tmp_path: Path
) -> None:
    """P10: the process that starts containers is an isolated interpreter (-I) with an environment of one variable."""
    with environment(planted):
        node = Node(paths)
        node.start()
    try:
        assert Path(f"/proc/{node.monitor_pid}/environ").read_bytes() == b"LANG=C.UTF-8\0"
        assert b"\0-I\0" in Path(f"/proc/{node.monitor_pid}/cmdline").read_bytes()
        assert not (tmp_path / "ran").exists()
    finally:
        node.close()


def test_the_command_line_does_not_run_what_its_caller_has_lying_about(
    bundle: Bundle, planted: Path, tmp_path: Path, paths: Paths
) -> None:
    """P10, P1: with PYTHONPATH set, and in a working directory full of modules of the same names: a bundle, say."""
    script = Path(sys.executable).with_name("kernelet-oci")
    assert script.exists(), "make test installs it"
    bundle.write()
    plant(bundle.directory, tmp_path / "ran")
    values = {name: value.format(planted=planted) for name, value in EVIL.items()}
    root = ["--root", str(paths.run_dir / "state")]
    for words in (["--version"], [*root, "state", "none"], [*root, "run", "--bundle", ".", "x"], [*root, "nonsense"]):
        done = subprocess.run(
            [script, *words], cwd=bundle.directory, env={"PATH": os.environ["PATH"], **values},
            capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == (0 if words[-1] in ("--version", "x") else 1), done
    assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()
    Path("/sys/fs/cgroup/kernelet-oci").rmdir()


def test_without_the_defence_the_callers_modules_run(planted: Path, tmp_path: Path) -> None:
    """P10: the attack works on an interpreter that is not isolated."""
    shutil.rmtree(planted / "encodings")  # which would not get as far as leaving a mark
    for name in ("codecs", "os", "site"):
        (planted / f"{name}.py").unlink()
    subprocess.run([sys.executable, "-c", "pass"], env={"PYTHONPATH": str(planted)}, check=False, capture_output=True)
    assert (tmp_path / "ran").read_text() == "sitecustomize\n"


@pytest.mark.parametrize("place", ["prefix", "usr", "cwd"])
def test_modules_of_the_image_are_not_imported(engine: Engine, bundle: Bundle, tmp_path: Path, place: str) -> None:
    """P1, CVE-2019-14271: codecs, modules and libraries of the image, where the host's are, are run by nobody but the image."""
    home = {"prefix": Path(sys.prefix) / "lib/python3.11", "usr": Path("/usr/lib/python3.11"), "cwd": Path("/")}[place]
    plant(bundle.rootfs / str(home)[1:], bundle.rootfs / "ran")
    for library in ("lib/x86_64-linux-gnu/libnss_files.so.2", "etc/ld.so.preload", "etc/nsswitch.conf", "usr/lib/gconv/x.so"):
        file = bundle.rootfs / library
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("/evil.so\n")
    # Names that take a codec, a user data base or a locale to be told of.
    bundle.process.args = ["sh", "-c", "true"]
    bundle.process.env.append("LC_ALL=tr_TR.ISO-8859-9")
    bundle.spec.hostname = "xn--evil"
    bundle.process.cwd = "/münchen"
    assert engine.run(bundle).code == 0
    # And a start that fails, for then an interpreter would look for a traceback's lines.
    bundle.process.args = ["/nonexistent-ü"]
    assert engine.run(bundle).refusal
    assert not list(bundle.directory.rglob("ran"))


def test_what_runs_after_the_clone_is_system_calls_of_a_list(core: Core, bundle: Bundle) -> None:
    """P1, P2: no import, no codec and no library can meet the container's files: only these calls are made among them."""
    from kernel.program import Step
    from runtime.container import init

    seen: list[Step] = []
    core.weakened(lambda step: seen.append(step) or step).run(bundle)  # type: ignore[func-returns-value]
    swapped = next(index for index, step in enumerate(seen) if step.call == "pivot_root")
    calls = {step.call for step in seen[swapped:]}
    assert calls <= {
        *("pivot_root", "umount2", "chdir", "openat2", "open_tree", "mount_setattr", "move_mount", "fsopen", "fsconfig"),
        *("fsmount", "setsid", "keyctl", "close_range", "fchdir", "umask", "prctl", "setgroups", "setresgid", "setresuid"),
        *("capset", "seccomp", "write", "read", "execve", "dup3", "close", "personality", "set_mempolicy", "fchown", "ioctl"),
        *("rt_sigaction", "rt_sigprocmask", "fcntl", "mount", "prlimit64"),
    }, calls
    assert init.__name__


def ignored(*numbers: signal.Signals) -> contextlib.AbstractContextManager[None]:
    @contextlib.contextmanager
    def change() -> Iterator[None]:
        before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    return change()


def test_no_signal_is_ignored_or_blocked_inside(engine: Engine, bundle: Bundle) -> None:
    """P9: Python ignores SIGPIPE and SIGXFSZ, a shell without job control SIGINT, nohup SIGHUP, and execve keeps it so."""
    bundle.process.args = ["grep", "Sig[BIC]", "/proc/self/status"]
    with ignored(signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGUSR1, signal.SIGTSTP, signal.SIGRTMIN, signal.SIGRTMAX):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2})
        try:
            lines = engine.run(bundle).lines
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGUSR2})
    assert lines == [f"Sig{what}:\t{0:016x}" for what in ("Blk", "Ign", "Cgt")]


def test_a_pipe_whose_reader_left_ends_its_writer(engine: Engine, bundle: Bundle) -> None:
    """P9: "yes | head -n 1" hung in containers whose runtime forgot SIGPIPE."""
    bundle.script("yes | head -n 1; echo over")
    assert engine.run(bundle).lines == ["y", "over"]


def test_a_small_address_space_is_the_containers_alone(engine: Engine, bundle: Bundle) -> None:
    """P16: RLIMIT_AS of the spec holds from its program on; what sets it up neither maps nor allocates under it."""
    bundle.process.rlimits = [schema.Rlimit(type="RLIMIT_AS", soft=32 << 20, hard=32 << 20)]
    bundle.script("ulimit -v; echo alive")
    assert engine.run(bundle).lines == ["32768", "alive"]


@pytest.mark.parametrize("kind", ["AS", "DATA", "STACK", "NOFILE", "FSIZE", "NPROC", "CPU", "MEMLOCK", "SIGPENDING", "CORE"])
@pytest.mark.parametrize("value", [0, 1, 3, 4096, 65536])
def test_no_limit_of_the_spec_leaves_anything_behind(engine: Engine, bundle: Bundle, kind: str, value: int) -> None:
    """P16: as small as can be: the container runs, or ends, or is refused in words; nothing hangs."""
    bundle.process.rlimits = [schema.Rlimit(type=f"RLIMIT_{kind}", soft=value, hard=value)]
    bundle.process.args = ["/bin/busybox", "true"]
    result = engine.run(bundle)
    assert result.refusal or result.code is not None


@pytest.mark.parametrize("limit", [0, 1, 3, 8])
def test_few_descriptors_are_the_containers_alone(engine: Engine, bundle: Bundle, limit: int) -> None:
    """P8, P16: RLIMIT_NOFILE of the spec must not make the set-up fail, which needs more of them."""
    bundle.process.rlimits = [schema.Rlimit(type="RLIMIT_NOFILE", soft=limit, hard=limit)]
    bundle.script("ulimit -n")
    assert engine.run(bundle).lines == [str(limit)]


@pytest.mark.parametrize("action", ["SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_TRAP", "SCMP_ACT_TRACE"])
@pytest.mark.parametrize("last", [True, False], ids=["no_new_privs", "early"])
def test_a_filter_that_forbids_everything_ends_the_start(engine: Engine, bundle: Bundle, action: str, last: bool) -> None:
    """P16: also exit_group(2), by which a start that fails would end: it must not go round in circles."""
    bundle.spec.linux.seccomp = schema.Seccomp(default_action=action)
    bundle.process.no_new_privileges = last
    assert engine.run(bundle).refusal


def test_limits_of_the_caller_do_not_make_a_start_hang(oci: Oci, bundle: Bundle) -> None:
    """P16: a caller with few descriptors or little memory gets a refusal in words."""
    bundle.write()
    for kind, values in ((resource.RLIMIT_NOFILE, (0, 8, 16, 32, 64)), (resource.RLIMIT_FSIZE, (0, 10, 1000))):
        for value in values:
            code, said = run_limited(oci, bundle, kind, value)
            # 127: the dynamic linker's own refusal, before there is an interpreter.
            assert code in (0, 1, 127, -signal.SIGXFSZ), (kind, value, code, said)
            assert "Traceback" not in said, said


def run_limited(oci: Oci, bundle: Bundle, kind: int, value: int) -> tuple[int, str]:
    """``run`` under a limit of its own; exit code and what was said."""
    name = f"limited-{kind}-{value}"
    words = ["--root", str(oci.root), "run", "--bundle", str(bundle.directory), name]
    code = f"import sys; sys.path.insert(0, {str(TREE)!r}); from runtime.oci.command import main; sys.exit(main({words!r}))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code],
        preexec_fn=lambda: resource.setrlimit(kind, (value, value)),
        capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    oci.call("delete", "--force", name)
    return done.returncode, done.stdout + done.stderr
