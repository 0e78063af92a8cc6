"""What a container puts in the place of /proc and /sys, or over a part of it, while the runtime still has to write there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from msgspec import structs

from kernel import mount, process
from kernel.program import Flags, Slot, Step
from runtime.spec import schema
from tests.safety.bundle import Bundle
from tests.safety.engine import Core, Engine, Result
from tests.support import child
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox")

#: What is written for a container at its start, below /proc.
WRITTEN = ("self/oom_score_adj", "self/attr/exec", "self/attr/apparmor/exec", "sys/net/ipv4/ip_forward")
SCORE = 321


@pytest.fixture
def fake(bundle: Bundle) -> Path:
    """A volume that looks like a procfs to whoever goes by names; every process of it is a link to one directory."""
    volume = bundle.directory / "fake"
    for name in WRITTEN:
        place = volume / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    (volume / "thread-self").symlink_to("self")
    (volume / "1").symlink_to("self")
    return volume


def settings(bundle: Bundle) -> None:
    """Ask for something to be written to the process's own files and to the network's."""
    bundle.process.oom_score_adj = SCORE
    bundle.spec.linux.sysctl = {"net.ipv4.ip_forward": "1"}


def written(fake: Path) -> dict[str, str]:
    """What ended in the fake files."""
    return {name: text for name in WRITTEN if (text := (fake / name).read_text())}


@pytest.mark.parametrize("name", ["proc", "sys"])
@pytest.mark.parametrize("target", ["/tmp/fake", "tmp/fake", "/dev"])
def test_proc_or_sys_that_is_a_link_is_refused(engine: Engine, bundle: Bundle, name: str, target: str) -> None:
    """CVE-2023-27561, CVE-2023-28642, CVE-2019-19921: what is masked and read-only would be so where the link leads."""
    (bundle.rootfs / "tmp/fake").mkdir()
    bundle.link(name, target)
    result = engine.run(bundle)
    assert f"mount /{name}: filesystem" in result.refusal
    assert "must be mounted on ordinary directory" in result.refusal


def test_without_the_defence_a_linked_proc_is_taken(gullible: Core, bundle: Bundle) -> None:
    """CVE-2023-27561: the attack works where the last link is followed."""
    (bundle.rootfs / "tmp/fake").mkdir()
    bundle.link("proc", "tmp/fake")
    bundle.spec.linux.masked_paths = bundle.spec.linux.readonly_paths = []
    assert gullible.run(bundle).code == 0


@pytest.mark.parametrize("destination", ["/proc", "//proc/", "/proc/.", "/proc/self", "/proc/sys", "/link", "/link/sys"])
def test_a_volume_over_proc_is_refused(engine: Engine, bundle: Bundle, fake: Path, destination: str) -> None:
    """CVE-2019-16884, CVE-2019-19921: labels were written to a volume's files, and masks put over them."""
    bundle.link("link", "/proc")
    settings(bundle)
    bundle.mount(fake, destination)
    result = engine.run(bundle)
    assert "/proc" in result.refusal
    assert written(fake) == {}


@pytest.mark.parametrize(
    "mount",
    [
        schema.Mount(destination="/proc", type="tmpfs", source="tmpfs"),
        schema.Mount(destination="/proc/sys", type="tmpfs", source="tmpfs"),
        schema.Mount(destination="/proc/self", type="proc", source="proc"),
        schema.Mount(destination="/proc/sys", type="bind", source="/proc/sys", options=["rbind"]),
        schema.Mount(destination="/proc/self/attr", type="tmpfs", source="rootfs/etc", options=["bind"]),
        schema.Mount(destination="/proc/kcore", type="bind", source="/dev/zero", options=["bind"]),
    ],
    ids=lambda mount: f"{mount.type} on {mount.destination}",
)
def test_nothing_is_mounted_over_a_part_of_proc(engine: Engine, bundle: Bundle, mount: schema.Mount) -> None:
    """CVE-2019-16884, CVE-2025-52881: one part of /proc over another sends what is written there elsewhere."""
    source = str(bundle.directory / mount.source) if "bind" in mount.options else mount.source
    bundle.spec.mounts.append(structs.replace(mount, source=source))
    assert "nothing but a procfs may be mounted over /proc" in engine.run(bundle).refusal


def test_what_is_commonly_emulated_is_let_through(engine: Engine, bundle: Bundle) -> None:
    """CVE-2019-16884: lxcfs puts its own files over some of the kernel's, which tell of memory and processors and no more."""
    (bundle.directory / "meminfo").write_text("emulated\n")
    bundle.mount(bundle.directory / "meminfo", "/proc/meminfo")
    bundle.script("cat /proc/meminfo")
    assert engine.run(bundle).lines == ["emulated"]


def test_the_nodes_own_proc_may_be_shown(engine: Engine, bundle: Bundle) -> None:
    """CVE-2019-16884: a container among the node's processes has its /proc bound, which is a procfs by its magic number."""
    bundle.without("/proc")
    bundle.mount("/proc", "/proc")
    bundle.spec.linux.masked_paths = bundle.spec.linux.readonly_paths = []
    assert engine.run(bundle).code == 0


@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_a_volume_in_place_of_proc_gets_nothing_written(engine: Engine, bundle: Bundle, fake: Path, kind: str) -> None:
    """CVE-2019-16884: with no procfs in the spec at all, what the image or a volume has there is not taken for one."""
    bundle.without("/proc")
    bundle.remove("proc")
    if kind == "bind":
        os.rename(fake, bundle.rootfs / "proc")
        fake = bundle.rootfs / "proc"
    else:
        (bundle.rootfs / "proc").mkdir()
    settings(bundle)
    bundle.spec.linux.masked_paths, bundle.spec.linux.readonly_paths = ["/proc/self"], ["/proc/sys"]
    bundle.script("sleep 100")
    with engine.create(bundle) as container:
        assert Path(f"/proc/{container.pid}/oom_score_adj").read_text() == f"{SCORE}\n"
    assert written(fake) == {}


def test_what_is_written_goes_by_the_handle_alone(core: Core, bundle: Bundle) -> None:
    """CVE-2025-52881: writes to /proc were redirected to other files of it (sysrq-trigger, core_pattern) by a shared mount.

    No step opens anything by a path from the root but the container's own, and what is written to was found below a
    procfs of the runtime's own, through no link and over no mount.
    """
    settings(bundle)
    bundle.script("cat /proc/sys/net/ipv4/ip_forward /proc/self/oom_score_adj")
    seen: list[Step] = []

    def see(step: Step) -> Step:
        seen.append(step)
        return step

    assert core.weakened(see).run(bundle).lines == ["1", str(SCORE)]
    arguments = [argument for step in seen if step.call == "write" for argument in step.arguments]
    written = {argument.name for argument in arguments if isinstance(argument, Slot)}
    assert written >= {"setting", "score"}
    for step in seen:
        assert step.call not in ("open", "openat", "creat")
        if step.store in written:
            assert step.call == "openat2"
            assert isinstance(step.arguments[0], int)
            assert "RESOLVE_BENEATH|RESOLVE_NO_MAGICLINKS|RESOLVE_NO_XDEV" in str(step)


def with_the_nodes_proc_covered(engine: Engine, bundle: Bundle, fake: Path) -> tuple[Result, dict[str, str]]:
    """What comes of *bundle*, and what ends in *fake*, where a part of that is mounted over the node's own /proc/sys."""
    settings(bundle)
    bundle.script("cat /proc/sys/net/ipv4/ip_forward")

    def attack() -> tuple[Result, dict[str, str]]:
        process.adopt_orphans()
        mount.bind(fake / "sys", "/proc/sys")
        return engine.run(bundle), written(fake)

    return child.run(attack, namespaces=["mount"])


def test_the_nodes_own_proc_that_somebody_mounted_over_is_not_written_to(engine: Engine, bundle: Bundle, fake: Path) -> None:
    """CVE-2025-52881: writes go through a procfs of the runtime's own, in no mount table, on which nothing can be mounted."""
    result, redirected = with_the_nodes_proc_covered(engine, bundle, fake)
    assert redirected == {}
    assert result.lines == ["1"], result


def test_without_the_defence_the_redirected_write_arrives(core: Core, bundle: Bundle, fake: Path) -> None:
    """CVE-2025-52881: the attack works where the node's /proc is written to by path."""

    def by_path(step: Step) -> Step:
        if step.store != "setting":
            return step
        path = "/proc/sys/net/ipv4/ip_forward"
        return Step("openat", (Flags(("AT_FDCWD",)), path, Flags(("O_WRONLY", "O_CLOEXEC")), 0), step.why, step.store)

    _, redirected = with_the_nodes_proc_covered(core.weakened(by_path), bundle, fake)
    assert redirected == {"sys/net/ipv4/ip_forward": "1"}


@pytest.mark.parametrize(
    "key",
    [
        "kernel.core_pattern",
        "kernel.sysrq",
        "net.ipv4.ip_forward\n",
        "net/../kernel/core_pattern",
        "net...kernel.core_pattern",
        "net.ipv4+kernel.core_pattern",
        "",
        ".",
        "net",
    ],
)
def test_a_setting_of_the_nodes_is_refused(engine: Engine, bundle: Bundle, key: str) -> None:
    """CVE-2022-0811: a setting with a separator in it changed the node's core_pattern."""
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    bundle.spec.linux.sysctl = {key: "|/bin/evil"}
    assert engine.run(bundle).refusal
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


def test_the_handle_does_not_get_into_the_container(engine: Engine, bundle: Bundle) -> None:
    """CVE-2025-52881: a procfs without masks must not be left open in what runs the container's program."""
    settings(bundle)
    bundle.script("ls -l /proc/self/fd /proc/1/fd; exec sleep 100")
    with engine.create(bundle) as container:
        opened = {os.readlink(f"/proc/{container.pid}/fd/{name}") for name in os.listdir(f"/proc/{container.pid}/fd")}
        assert not [name for name in opened if "sys" in name or "proc" in name or "score" in name]
