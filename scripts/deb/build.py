"""build/kernelet_VERSION_ARCH.deb: a virtual environment below /opt/kernelet, and what belongs around it.

Made by ``make deb`` with the pinned wheels of requirements.lock and our own.  Its interpreter is Debian's: the
environment has a link to it, and nothing in it names the place where it was built.  Nothing is compiled to
bytecode here: postinst does that, for the interpreter that is there.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
PREFIX = "/opt/kernelet"
#: What our wheel is built from.
SOURCES = ("kernel", "runtime", "cri", "scripts", "pyproject.toml", "README.md", "LICENSE")
#: What a build leaves in its source: no part of it.
BUILT = shutil.ignore_patterns("__pycache__", "*.so", "_linux.c", "runner", "runner-aarch64")
COMMANDS = ("kernelet", "kernelet-oci")
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
SUGGESTS = "containernetworking-plugins, uidmap"
DESCRIPTION = """\
Kubernetes container runtime that talks straight to the Linux kernel
 Kernelet answers the CRI (runtime.v1) on a Unix socket and does the whole of
 a pod's life: it pulls, verifies and unpacks images, makes sandboxes and
 networks, starts containers, keeps their logs, executes commands in them.
 Under it there is no containerd, no runc, no conmon and no shim.
 .
 Its commands show how a container was made, system call by system call.
 kernelet-oci is its command line for others, compatible with runc's."""


def main() -> None:
    project = tomllib.loads((TREE / "pyproject.toml").read_text())["project"]
    version, machine = project["version"], run("dpkg", "--print-architecture").strip()
    target = TREE / "build" / f"kernelet_{version}_{machine}.deb"
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="kernelet-deb-") as work:
        os.chmod(work, 0o755)
        root = Path(work, "root")
        install_code(root, Path(work))
        install_around(root, version)
        write_control(root, version, machine)
        settle(root)
        run("dpkg-deb", "--root-owner-group", "-Zxz", "--build", root, target)
    print(f"{target.relative_to(TREE)}: {target.stat().st_size / 1e6:.1f} MB")


def install_code(root: Path, work: Path) -> None:
    """The virtual environment, with our wheel and those that it needs."""
    wheels, venv = work / "wheels", Path(f"{root}{PREFIX}")
    lock = work / "run.lock"
    lock.write_text(locked("run"))
    pip("wheel", "--no-deps", "--no-build-isolation", "--use-pep517", "--require-hashes", "--wheel-dir", wheels, "-r", lock)
    source = work / "source"
    source.mkdir()
    for name in SOURCES:  # a copy: a build writes into its source, which is in use
        if (TREE / name).is_dir():
            shutil.copytree(TREE / name, source / name, ignore=BUILT)
        else:
            shutil.copy(TREE / name, source / name)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, source)
    run("/usr/bin/python3", "-m", "venv", "--without-pip", venv)
    needed = [wheel for wheel in sorted(wheels.iterdir()) if not wheel.name.startswith("setuptools-")]
    pip("--python", venv / "bin/python3", "install", "--no-index", "--no-compile", *needed)
    for script in (venv / "bin").iterdir():
        if script.is_symlink():  # the interpreter
            continue
        if script.name not in COMMANDS:
            script.unlink()
        else:
            script.write_bytes(script.read_bytes().replace(os.fsencode(venv), os.fsencode(PREFIX)))
    run("strip", "--strip-unneeded", *venv.rglob("*.so"))
    (venv / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    for record in venv.rglob("direct_url.json"):  # where the wheel was
        record.unlink()
    shutil.rmtree(venv / "include", ignore_errors=True)


def install_around(root: Path, version: str) -> None:
    """Links, unit, configuration, manual, completions, documents."""
    bin_ = root / "usr/bin"
    bin_.mkdir(parents=True)
    (bin_ / "kernelet").symlink_to(f"{PREFIX}/bin/kernelet")
    launcher = bin_ / "kernelet-oci"  # no link: the script behind it would have to start readlink (1.2 ms of 30)
    launcher.write_text(
        f'#!/bin/sh\nexec {PREFIX}/bin/python3 -I -S {PREFIX}/lib/{PYTHON}/site-packages/runtime/oci/__main__.py "$@"\n'
    )
    launcher.chmod(0o755)
    copy(HERE / "kernelet.service", root / "lib/systemd/system/kernelet.service")
    command = [f"{root}{PREFIX}/bin/python3", "-B", "-m"]
    default = root / "etc/kernelet/kernelet.toml"
    default.parent.mkdir(parents=True)
    default.write_text(run(*command, "cri", "config", "default"))
    run(*command, "cri.command.completion", root)
    pages = root / "usr/share/man/man1"
    (pages / "kernelet-oci.1").write_text(OCI_PAGE.replace("VERSION", version))
    for page in pages.iterdir():
        compress(page)
    documents = root / "usr/share/doc/kernelet"
    documents.mkdir(parents=True)
    (documents / "copyright").write_text(COPYRIGHT)
    copy(TREE / "README.md", documents / "README.md")
    (documents / "changelog").write_text(changelog(version))
    compress(documents / "changelog")
    overrides = root / "usr/share/lintian/overrides/kernelet"
    overrides.parent.mkdir(parents=True)
    overrides.write_text(OVERRIDES)


def write_control(root: Path, version: str, machine: str) -> None:
    """DEBIAN/: what dpkg reads and runs."""
    control = root / "DEBIAN"
    control.mkdir()
    size = sum(path.lstat().st_size for path in root.rglob("*") if path.is_file()) // 1024
    python = sys.version_info
    depends = [
        f"python3 (>= {python.major}.{python.minor}), python3 (<< {python.major}.{python.minor + 1})",
        *libraries(root),
    ]
    fields = {
        "Package": "kernelet",
        "Version": version,
        "Architecture": machine,
        "Maintainer": "The Kernelet authors <kernelet@localhost>",
        "Installed-Size": str(size),
        "Depends": ", ".join(depends),
        "Suggests": SUGGESTS,
        "Section": "admin",
        "Priority": "optional",
        "Description": DESCRIPTION,
    }
    (control / "control").write_text("".join(f"{name}: {text}\n" for name, text in fields.items()))
    (control / "conffiles").write_text("/etc/kernelet/kernelet.toml\n")
    for name in ("postinst", "prerm", "postrm"):
        copy(HERE / name, control / name, 0o755)
    sums = (f"{run('md5sum', path).split()[0]}  {path.relative_to(root)}\n" for path in packaged(root))
    (control / "md5sums").write_text("".join(sums))


def packaged(root: Path) -> Iterator[Path]:
    """The regular files that the package installs."""
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink() and "DEBIAN" not in path.relative_to(root).parts:
            yield path


def libraries(root: Path) -> list[str]:
    """The packages of the shared libraries that the compiled modules need, with versions, as dpkg-shlibdeps finds them."""
    modules = [str(path) for path in root.rglob("*.so")]
    with tempfile.TemporaryDirectory() as empty:  # it wants to stand in a source package
        Path(empty, "debian").mkdir()
        Path(empty, "debian/control").write_text("Source: kernelet\n\nPackage: kernelet\nArchitecture: any\n")
        said = run("dpkg-shlibdeps", "-O", "--ignore-missing-info", *modules, cwd=Path(empty))
    return re.sub(r"^shlibs:Depends=", "", said.strip()).split(", ")


def settle(root: Path) -> None:
    """Modes as Debian has them, and one time for all: the last commit's, so that a build can be repeated."""
    moment = time_of_source()
    os.environ["SOURCE_DATE_EPOCH"] = str(moment)
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            is_module = path.is_relative_to(f"{root}{PREFIX}/lib")  # some come with the mode of a program
            os.chmod(path, 0o755 if stat.S_ISDIR(mode) or (mode & 0o100 and not is_module) else 0o644)
        os.utime(path, (moment, moment), follow_symlinks=False)


def locked(section: str) -> str:
    """A section of the lock file, and before it what builds with it: cffi, whose backend is needed to run."""
    lines = (TREE / "requirements.lock").read_text().splitlines(keepends=True)
    start = lines.index(f"# {section}\n") + 1
    end = next((number for number in range(start, len(lines)) if lines[number].startswith("# ")), len(lines))
    build = lines.index("# build\n") + 1
    return "".join(lines[build : start - 1] + lines[start:end])


def changelog(version: str) -> str:
    """The changes of this version, in Debian's form."""
    date = formatdate(time_of_source())
    author = "The Kernelet authors <kernelet@localhost>"
    return f"kernelet ({version}) unstable; urgency=medium\n\n  * See the history of the sources.\n\n -- {author}  {date}\n"


def time_of_source() -> int:
    """When the last commit was made, in seconds since the epoch; SOURCE_DATE_EPOCH says otherwise."""
    return int(os.environ.get("SOURCE_DATE_EPOCH") or run("git", "-C", TREE, "log", "-1", "--format=%ct"))


def compress(file: Path) -> None:
    """*file* as *file*.gz, without a name or a time in it."""
    with open(f"{file}.gz", "wb") as out, gzip.GzipFile("", "wb", 9, out, mtime=0) as packed:
        packed.write(file.read_bytes())
    file.unlink()


def copy(source: Path, target: Path, mode: int = 0o644) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    os.chmod(target, mode)


def pip(*words: str | Path) -> None:
    run(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", *words)


def run(*words: str | Path, cwd: Path | None = None) -> str:
    """What a command says; its complaints go to ours.  CalledProcessError when it fails."""
    return subprocess.run(words, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True).stdout


OCI_PAGE = """\
.TH KERNELET\\-OCI 1 "" "kernelet VERSION" "User Commands"
.SH NAME
kernelet\\-oci \\- run containers of OCI bundles, with the command line of runc
.SH SYNOPSIS
.B kernelet\\-oci
[\\fIGLOBAL OPTION\\fR ...]
.I COMMAND
[\\fIOPTION\\fR ...] [\\fIARGUMENT\\fR ...]
.SH DESCRIPTION
Makes and runs containers as the OCI runtime specification says, alone, with no daemon.
containerd, podman and others run their containers by it.
.B kernelet\\-oci \\-\\-help
lists its commands, and with a command its options.
.SH SEE ALSO
.BR kernelet (1)
"""

COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: kernelet

Files: *
Copyright: 2026 The Kernelet authors
License: Apache-2.0
 On Debian systems the full text of the Apache License, version 2.0, is in
 /usr/share/common-licenses/Apache-2.0.

Files: opt/kernelet/lib/*
Copyright: their authors, as the METADATA of each package there says
License: various
 Below /opt/kernelet there are other packages, each with its own terms (MIT,
 BSD, Apache-2.0, PSF) in its .dist-info directory.  Among them is
 python-prctl, which is under the GNU General Public License, version 3 or
 later, whose text is in /usr/share/common-licenses/GPL-3: the installed whole
 carries its terms.
"""

OVERRIDES = """\
# An environment of its own, with exactly the packages that it was tested with.
kernelet: dir-or-file-in-opt
kernelet: embedded-library
kernelet: wrong-path-for-interpreter
kernelet: unusual-interpreter
kernelet: script-not-executable
# A static executable of 1 KB without a libc, which containers are started by.
kernelet: statically-linked-binary
# The project has no address of its own.
kernelet: bogus-mail-host
kernelet: bogus-mail-host-in-debian-changelog
"""

if __name__ == "__main__":
    main()
