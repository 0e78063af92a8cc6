"""The AppArmor or SELinux label that a process changes to at execve."""

from __future__ import annotations

from pathlib import Path

from kernel.program import Program
from runtime.container import procfs as procfs_steps
from runtime.spec import schema


def label(steps: Program, process: schema.Process, procfs: int | None) -> None:
    """Ask for the label, through a procfs that nobody can have covered (CVE-2019-16884)."""
    steps.heading("security label")
    for name, value, field in (
        ("apparmor/exec", f"exec {process.apparmor_profile}", "process.apparmorProfile"),
        ("exec", process.selinux_label, "process.selinuxLabel"),
    ):
        if value not in ("", "exec "):
            procfs_steps.write(
                steps,
                procfs,
                f"thread-self/attr/{name}",
                value,
                store="label",
                why="change to this label at execve",
                absent=f"this kernel does not have the security module that {field} asks for",
                hint=f"{field}: the profile is not loaded, or the label is not known",
            )


def modules() -> frozenset[str]:
    """The security modules of this kernel that labels are for: apparmor, selinux."""
    enabled = Path("/sys/module/apparmor/parameters/enabled")
    found = [("apparmor", enabled.exists() and enabled.read_text().strip() == "Y")]
    found.append(("selinux", Path("/sys/fs/selinux/enforce").exists()))
    return frozenset(name for name, is_there in found if is_there)


def wants_label(process: schema.Process) -> bool:
    """Whether there is something to write."""
    return bool(process.apparmor_profile or process.selinux_label)
