"""CNI plugins for tests: one that writes down what it was asked, and answers, fails or hangs as it is told."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: It answers with the file ANSWER.TYPE.COMMAND beside it, if there is one: "exit", "say" and "sleep" in it.
PROGRAM = """#!/usr/bin/python3 -IS
import json, os, sys, time
here, kind = os.path.split(sys.argv[0])
command = os.environ["CNI_COMMAND"]
call = {"type": kind, "command": command, "read": json.loads(sys.stdin.read())}
call["variables"] = {name: value for name, value in os.environ.items() if name.startswith("CNI_")}
with open(f"{here}/calls", "a") as calls:
    calls.write(json.dumps(call) + "\\n")
try:
    with open(f"{here}/ANSWER.{kind}.{command}") as file:
        answer = json.load(file)
except FileNotFoundError:
    answer = {}
if "sleep" in answer:
    if os.fork() == 0:
        time.sleep(answer["sleep"])
        os._exit(0)
    os.wait()
if answer.get("error"):
    sys.stderr.write(answer["error"])
default = {"VERSION": json.dumps({"cniVersion": "1.1.0", "supportedVersions": ["0.4.0", "1.0.0", "1.1.0"]})}
sys.stdout.write(answer.get("say", default.get(command, "")))
sys.exit(answer.get("exit", 0))
"""

RESULT = {
    "cniVersion": "1.1.0",
    "interfaces": [{"name": "eth0", "sandbox": "/netns"}],
    "ips": [{"address": "10.9.0.7/24", "gateway": "10.9.0.1", "interface": 0}],
}


@dataclass(frozen=True, slots=True)
class Call:
    """One execution of a plugin."""

    type: str
    command: str
    read: dict[str, Any]
    variables: dict[str, str]


class Recorder:
    """Plugins in *directory*, that of programs, and a directory of configurations beside it."""

    def __init__(self, directory: Path, *types: str) -> None:
        self.programs, self.configurations = directory / "bin", directory / "net.d"
        self.programs.mkdir()
        self.configurations.mkdir()
        for name in types:
            self.install(name)

    @property
    def section(self) -> str:
        """What a daemon's configuration says of it, in the section "network"."""
        return f'kind = "cni"\ncni_config_dir = "{self.configurations}"\ncni_plugin_dirs = ["{self.programs}"]\n'

    def install(self, name: str) -> None:
        program = self.programs / name
        program.write_text(PROGRAM)
        program.chmod(0o755)

    def answer(self, name: str, command: str, **answer: Any) -> None:
        """What the plugin does at *command* from now on; without *answer*, nothing special."""
        (self.programs / f"ANSWER.{name}.{command}").write_text(json.dumps(answer))

    def calls(self, *, without: Iterable[str] = ("VERSION", "STATUS", "GC")) -> list[Call]:
        """What was executed so far, in order."""
        try:
            lines = (self.programs / "calls").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [call for call in (Call(**json.loads(line)) for line in lines) if call.command not in without]

    def forget(self) -> None:
        (self.programs / "calls").unlink(missing_ok=True)

    def configure(self, name: str = "pods", version: str = "1.1.0", file: str = "10-pods.conflist", **keys: Any) -> Path:
        """Write a list of all that is installed, or with *keys* another one."""
        plugins = [{"type": program.name} for program in sorted(self.programs.iterdir()) if program.name.islower()]
        plugins = [plugin for plugin in plugins if plugin["type"] != "calls"]
        path = self.configurations / file
        path.write_text(json.dumps({"cniVersion": version, "name": name, "plugins": plugins} | keys))
        return path
