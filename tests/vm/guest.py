"""One boot of one guest: a command goes in, its streams, exit code and files come out, and nothing of it stays.

User Mode Linux is a program that is a kernel: 2 s, Python at native speed; one CPU, controllers cpu, io, memory and pids.
QEMU emulates (TCG): 6 s, ten times slower, all controllers, PSI, nftables.  KVM only where ``KERNELET_VM_KVM=1`` asks for it:
on some hosts /dev/kvm opens and no stock kernel comes up.  The disks are never written: what a guest writes is in memory.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from tests.support import wait
from tests.support.requires import TREE
from tests.vm.code_disk import PREFIX
from tests.vm.debian import UML
from tests.vm.image import Image

Init = Literal["minimal", "systemd"]
INITS: dict[Init, str] = {"minimal": "/usr/local/sbin/kernelet-vm-init", "systemd": "/sbin/init"}
PYTHON = f"{PREFIX}/bin/python"

#: What a guest's command finds in /src; our packages are not among it: they are installed.
SOURCE = ("tests", "pyproject.toml")
#: The files that come out; "results" is a tar of the guest's /results.
OUTPUTS = ("stdout", "stderr", "code", "results")
TIMEOUT_SECONDS = 120.0
CONSOLE_LINES = 60

#: A pid namespace whose first process waits for the command: as the first one itself it would get no signals.
OWN_PIDS = (
    *("setpriv", "--pdeathsig", "KILL", "--"),
    *("unshare", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--", "sh", "-c", '"$@"; exit $?', "sh"),
)


class GuestFailed(AssertionError):
    """The guest hung, or ended without an exit code; its console is in the message."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a command did in a guest.  *seconds* are from power-on to power-off; *files* what it left in /results, by name."""

    code: int
    stdout: str
    stderr: str
    console: str
    files: dict[str, bytes]
    seconds: float

    def check(self) -> Result:
        """Itself; AssertionError with all that was said when the command failed."""
        assert self.code == 0, f"exit code {self.code}\n{self.stdout}\n{self.stderr}\nconsole:\n{self.console}"
        return self


class Guests:
    """Boots *image*; what a guest writes lies in *directory*, best in memory."""

    def __init__(self, image: Image, directory: Path) -> None:
        self.image = image
        self.directory = directory

    def run(
        self,
        command: str,
        *,
        kernel: str = UML,
        init: Init = "minimal",
        append: str = "",
        memory_mib: int = 1536,
        timeout_seconds: float = TIMEOUT_SECONDS,
        files: Mapping[str, Path] = MappingProxyType({}),
        disk: Path | None = None,
    ) -> Result:
        """Run the shell's *command* as root in a fresh guest, in a directory that has this tree's tests.

        *append* is for the kernel's command line; *files* are in that directory too, by the names they have there.
        *disk* is the fourth of the guest's, and what is written to it stays.
        GuestFailed, with the console, when there is no exit code in time.
        """
        with tempfile.TemporaryDirectory(dir=self.directory) as name:
            place = Path(name)
            _write_source(place / "source.tar", command, files)
            for output in OUTPUTS:
                (place / output).touch()
            words = self._words(place, kernel, init, append, memory_mib, disk)
            began = time.monotonic()
            has_ended = _power(words, place, timeout_seconds)
            return _collect(place, time.monotonic() - began, None if has_ended else timeout_seconds)

    def cut(self, command: str, *, after: str, seconds: float, disk: Path, kernel: str, files: Mapping[str, Path]) -> str:
        """``run`` until the power is cut, *seconds* after the command has said *after*; what it had said.

        What the guest had not written out to *disk* by then is lost.  GuestFailed when it ends by itself, or does not say it.
        """
        with tempfile.TemporaryDirectory(dir=self.directory) as name:
            place = Path(name)
            _write_source(place / "source.tar", command, files)
            for output in OUTPUTS:
                (place / output).touch()
            with _powered(self._words(place, kernel, "minimal", "", 1536, disk), place) as process:
                stdout = place / "stdout"
                with contextlib.suppress(AssertionError):
                    wait.until(lambda: after in stdout.read_text() or process.poll() is not None, TIMEOUT_SECONDS)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(seconds)
                if process.poll() is None and after in stdout.read_text():
                    return stdout.read_text()
            ended = _collect(place, 0.0, TIMEOUT_SECONDS if process.returncode < 0 else None)
            raise GuestFailed(f"the guest ended before its power was cut: {ended.check().stdout}")

    def _words(self, place: Path, kernel: str, init: Init, append: str, memory_mib: int, disk: Path | None) -> list[str]:
        """The command that is the guest."""
        options = f"quiet systemd.unit=kernelet-vm.target systemd.show_status=0 {append}"
        words = (self._uml if kernel == UML else self._qemu)(place, kernel, INITS[init], options, memory_mib)
        if disk is not None:
            words += [f"ubd3={disk}"] if kernel == UML else ["-drive", f"file={disk},format=raw,if=virtio"]
        return words

    def pytest(
        self,
        *words: str,
        kernel: str = UML,
        init: Init = "minimal",
        append: str = "",
        memory_mib: int = 1536,
        before: str = "",
        timeout_seconds: float = 900.0,
    ) -> Result:
        """``run`` of pytest, after the command *before*; its JUnit report comes back as "junit.xml".

        With systemd as init it sees the guest as it is, and no node of its own in there.  Where ``KERNELET_COVERAGE=1``
        asks for it, what was measured of our packages comes back too, a file a process, by names that begin with "coverage/".
        """
        variables = ["KERNELET_VM=1", "CI=true"]
        module = ["pytest"]
        if init == "systemd":
            variables.append("KERNELET_WHOLE_NODE=1")
        if os.environ.get("KERNELET_COVERAGE") == "1":
            variables.append("COVERAGE_FILE=/results/coverage/data")
            module = ["coverage", "run", "-m", "pytest"]
        command = shlex.join([PYTHON, "-m", *module, "-q", "--junitxml=/results/junit.xml", *words])
        return self.run(
            f"{before}mkdir -p /results/coverage; {' '.join(variables)} {command}",
            kernel=kernel, init=init, append=append, memory_mib=memory_mib, timeout_seconds=timeout_seconds,
        )

    def _uml(self, place: Path, kernel: str, init: str, options: str, memory_mib: int) -> list[str]:
        # Pinned: its processes hand over at each system call, nine times slower from one CPU to another.
        pinned = ["taskset", "-c", str(max(os.sched_getaffinity(0)))]
        disks = [
            f"ubd0={place}/cow,{self.image.root_disk}",
            f"ubd1r={place}/source.tar",
            f"ubd2r={self.image.code_disk}",
        ]
        console = ["con=null", "con0=null,fd:1", "ssl=null"]
        rest = ["root=/dev/ubda", "rw", f"init={init}", f"kernelet.host={place}", *options.split()]
        return [*pinned, str(self.image.kernel(kernel)), f"mem={memory_mib}M", *disks, *console, *rest]

    def _qemu(self, place: Path, kernel: str, init: str, options: str, memory_mib: int) -> list[str]:
        has_kvm = os.environ.get("KERNELET_VM_KVM") == "1"
        accelerator = ["-accel", "kvm", "-cpu", "host"] if has_kvm else ["-accel", "tcg,thread=multi", "-cpu", "Nehalem"]
        line = f"console=ttyS0 panic=-1 mitigations=off tsc=reliable kernelet.init={init} {options}"
        ports = [
            f"-chardev file,id={name},path={place}/{name} -device virtserialport,chardev={name},name={name}" for name in OUTPUTS
        ]
        return [
            *("qemu-system-x86_64", "-M", "q35", *accelerator, "-m", str(memory_mib), "-smp", "2"),
            *("-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"),
            *("-kernel", str(self.image.kernel(kernel)), "-initrd", str(self.image.initramfs(kernel)), "-append", line),
            *("-drive", f"file={self.image.root_disk},format=raw,if=virtio,snapshot=on,cache=unsafe"),
            *("-drive", f"file={place}/source.tar,format=raw,if=virtio,readonly=on"),
            *("-drive", f"file={self.image.code_disk},format=raw,if=virtio,readonly=on"),
            *("-device", "virtio-serial-pci", *" ".join(ports).split()),
        ]


def _power(words: Sequence[str], place: Path, timeout_seconds: float) -> bool:
    """Have *words* run to their end, the console in a file; False when time was over first.  No process of it is left.

    Should we be killed ourselves, the kernel kills the guest: one process (setpriv), and with it a pid namespace, for User
    Mode Linux is many, which do not end together.
    """
    with _powered(words, place) as process:
        try:
            process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return False
    return True


@contextlib.contextmanager
def _powered(words: Sequence[str], place: Path) -> Iterator[subprocess.Popen[bytes]]:
    """*words* at work while the block runs."""
    environment = os.environ | {"HOME": str(place), "TMPDIR": str(place)}  # User Mode Linux puts its memory there
    with open(place / "console", "wb") as console:
        process = subprocess.Popen(
            [*OWN_PIDS, *words],
            stdin=subprocess.DEVNULL, stdout=console, stderr=console, env=environment, start_new_session=True,
        )
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill all of its session: the processes of a guest of User Mode Linux are processes here."""
    with contextlib.suppress(ProcessLookupError):  # all had ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _collect(place: Path, seconds: float, overdue_seconds: float | None) -> Result:
    console = (place / "console").read_text(errors="replace").replace("\r", "")
    stdout, stderr = ((place / name).read_bytes().decode(errors="replace") for name in ("stdout", "stderr"))
    code = (place / "code").read_text().strip()
    if overdue_seconds is not None or not code:
        why = "it ended without an exit code" if overdue_seconds is None else f"it had not ended after {overdue_seconds:g} s"
        last = "\n".join(console.splitlines()[-CONSOLE_LINES:])
        raise GuestFailed(f"run a guest: {why}\nstdout:\n{stdout}\nstderr:\n{stderr}\nconsole:\n{last}")
    return Result(int(code), stdout, stderr, console, dict(_files(place / "results")), seconds)


def _files(archive: Path) -> Iterable[tuple[str, bytes]]:
    with tarfile.open(archive) as opened:
        for member in opened:
            content = opened.extractfile(member)
            if content is not None:
                yield member.name.removeprefix("./"), content.read()


def _write_source(archive: Path, command: str, files: Mapping[str, Path]) -> None:
    """The disk that a guest unpacks into /src: the tests, *files* and what to run."""
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as opened:
        for name, path in {**{name: TREE / name for name in SOURCE}, **files}.items():
            opened.add(path, name, filter=_without_caches)
        script = tarfile.TarInfo(".command")
        script.size = len(command.encode()) + 1
        opened.addfile(script, io.BytesIO(command.encode() + b"\n"))


def _without_caches(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in member.name else member
