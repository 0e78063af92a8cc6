"""The runtime's own executable, seen from a container: it must not be changed, looked into, or run to any end.

No Python is ever in a container's namespaces: what sets a container up is the runner, a few hundred bytes in a
sealed memfd that maps nothing but its program and its report.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel import process
from kernel.fd import memory
from kernel.program import runner_image
from runtime.spec import schema
from tests.safety import engine
from tests.safety.bundle import Bundle
from tests.safety.engine import Container, Core
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox")


@pytest.fixture
def created(core: Core, bundle: Bundle) -> Iterator[Container]:
    bundle.script("exec sleep 100")
    with core.create(bundle) as container:
        yield container


def overwrite(pid: int) -> bool:
    """The attack of 2019: keep the executable open by path only, wait for its end, open it again to write."""
    place = os.open(f"/proc/{pid}/exe", os.O_PATH)
    try:
        for _ in range(2):
            with contextlib.suppress(OSError):
                writer = os.open(f"/proc/self/fd/{place}", os.O_WRONLY)
                try:
                    return os.pwrite(writer, b"evil", 0) == 4
                finally:
                    os.close(writer)
            if os.path.exists(f"/proc/{pid}/exe"):
                process.send_signal(process.open_pidfd(pid), 9)
                process.reap(pid)
        return False
    finally:
        os.close(place)


def test_the_executable_cannot_be_overwritten(created: Container) -> None:
    """CVE-2019-5736, P3: /proc/PID/exe of a process on its way into the container is sealed for good, not the host's binary."""
    for pid in (created.pid, created.reaper_pid):
        assert os.readlink(f"/proc/{pid}/exe").startswith("/memfd:kernelet-runner")
        with open(f"/proc/{pid}/exe", "rb") as file:
            seals = fcntl.fcntl(file, fcntl.F_GET_SEALS)
            assert file.read() == runner_image()
        assert seals & (wanted := fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL) == wanted
    assert not overwrite(created.pid)


def test_without_the_seal_the_executable_is_overwritten(core: Core, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2019-5736: the attack works on a memfd that is not sealed."""
    monkeypatch.setattr(engine, "memory", lambda name, content, *, seal=True: memory(name, content, seal=False))
    with core.create(bundle) as container:
        # Who waits for the end is the reaper, who is the container's parent, so the attack waits for the reaper's end.
        os.kill(container.pid, 9)
        place = os.open(f"/proc/{container.reaper_pid}/exe", os.O_PATH)
    try:
        writer = os.open(f"/proc/self/fd/{place}", os.O_WRONLY)
        assert os.pwrite(writer, b"evil", 0) == 4
        os.close(writer)
    finally:
        os.close(place)


def test_an_image_whose_program_is_the_runtime_itself_gets_nothing(core: Core, bundle: Bundle) -> None:
    """CVE-2019-5736: an entry point "#!/proc/self/exe" made the runtime run itself inside the container."""
    for name, content in (("evil", "#!/proc/self/exe\n"), ("worse", "#!/proc/1/exe x\n")):
        place = bundle.rootfs / name
        place.write_text(content)
        place.chmod(0o755)
        bundle.process.args = [f"/{name}"]
        result = core.run(bundle)
        # The runner finds no program at descriptor 3 and leaves; nothing of ours was there to be opened.
        assert result.refusal or result.code == 112, result
    assert runner_image() == Path(core_file()).read_bytes()


def core_file() -> str:
    import kernel.program

    return str(Path(kernel.program.__file__).with_name("runner"))


def test_only_the_runner_and_its_program_are_mapped(created: Container) -> None:
    """P4, P2: no library, no module and no interpreter of the host's is mapped in what becomes the container's process."""
    for pid in (created.pid, created.reaper_pid):
        lines = [line.split(maxsplit=5) for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
        mapped = {line[5] for line in lines if len(line) > 5 and line[5][0] == "/"}
        assert {name.split(" ")[0] for name in mapped} <= {"/memfd:kernelet-runner", "/memfd:program", "/memfd:kernelet-report"}
        assert not [name for name in os.listdir(f"/proc/{pid}/task") if name != str(pid)]


LOOK = (
    "for l in exe root cwd fd/0 fd/6 fd/7 ns/mnt; do readlink /proc/1/$l; done; ls /proc/1/map_files;"
    " cat /proc/1/mem /proc/1/environ /proc/1/maps /proc/1/auxv; (echo x > /proc/1/exe) && echo WRITTEN"
)


def spying(container: Container, directory: Path) -> Bundle:
    """Another container in the pid namespace of *container*, with all rights that an image may ask for."""
    other = Bundle(directory)
    other.spec.linux.namespaces = [
        schema.Namespace(type=each.type, path=f"/proc/{container.pid}/ns/pid" if each.type == "pid" else "")
        for each in other.spec.linux.namespaces
    ]
    other.script(f"({LOOK}) 2>/dev/null; kill -0 1 && echo seen")
    return other


def test_a_process_that_is_being_set_up_cannot_be_looked_into(core: Core, created: Container, tmp_path: Path) -> None:
    """CVE-2016-9962, CVE-2019-5736, P4: it is not dumpable until execve: a neighbour in its pid namespace sees nothing."""
    assert core.run(spying(created, tmp_path / "spy")).lines == ["seen"]


def test_without_the_defence_a_neighbour_looks_into_it(core: Core, bundle: Bundle, tmp_path: Path) -> None:
    """CVE-2016-9962: the attack works on a process that is dumpable."""
    bundle.script("exec sleep 100")
    with core.weakened(engine.without("prctl(PR_SET_DUMPABLE")).create(bundle) as container:
        assert "memfd:kernelet-runner" in core.run(spying(container, tmp_path / "spy")).output
