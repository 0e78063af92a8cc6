"""Completions and the manual, made from the parser: bash is asked itself, the rest is read."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from cri.__main__ import COMMANDS, main
from cri.command import completion
from cri.command.completion import Usage, usages


@pytest.fixture(scope="module")
def commands() -> list[Usage]:
    return usages()


def completed(commands: list[Usage], *words: str, tmp_path: Path) -> list[str]:
    """What bash offers after *words*, the last of which is being typed."""
    stub = tmp_path / "kernelet"
    stub.write_text('#!/bin/sh\necho "listed-by-$1"\n')
    stub.chmod(0o755)
    script = completion.bash(commands) + (
        f'PATH={tmp_path}:$PATH; COMP_WORDS=(kernelet "$@"); COMP_CWORD=$#; _kernelet; printf "%s\\n" "${{COMPREPLY[@]}}"\n'
    )
    done = subprocess.run(["bash", "-c", script, "bash", *words], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_offers_commands_options_and_names(commands: list[Usage], tmp_path: Path) -> None:
    assert completed(commands, "p", tmp_path=tmp_path) == ["pods", "ps", "pull", "plan"]
    assert completed(commands, "logs", "--t", tmp_path=tmp_path) == ["--timestamps", "--tail"]
    assert completed(commands, "logs", "-f", "list", tmp_path=tmp_path) == ["listed-by-ps"]
    assert completed(commands, "inspect", "list", tmp_path=tmp_path) == ["listed-by-ps", "listed-by-pods", "listed-by-images"]
    assert completed(commands, "config", "", tmp_path=tmp_path)[-2:] == ["check", "default"]
    assert completed(commands, "completion", "z", tmp_path=tmp_path) == ["zsh"]


def test_every_command_and_option_is_in_all_of_them(commands: list[Usage]) -> None:
    assert [usage.name for usage in commands] == list(COMMANDS)
    texts = [completion.bash(commands), completion.zsh(commands), completion.fish(commands), completion.manual(commands, "1")]
    for usage in commands:
        for text in texts:
            assert usage.name in text
        for flag in usage.flags:
            assert flag in texts[0] and f"'{flag}:" in texts[1]
            assert f" -{'l' if flag.startswith('--') else 's'} {flag.lstrip('-')} " in texts[2]
            if not usage.nested and flag not in ("-h", "--help"):
                assert f"\\fB{flag.replace('-', chr(92) + '-')}\\fR" in texts[3], (usage.name, flag)


def test_the_manual_has_no_line_that_roff_would_take_for_a_request(commands: list[Usage]) -> None:
    known = {".TH", ".SH", ".SS", ".TP", ".B", ".I", ".BR"}
    for line in completion.manual(commands, "1.0").splitlines():
        assert not line.startswith("'")
        assert not line.startswith(".") or line.split()[0] in known, line
        assert not re.search(r"%\(\w+\)s", line)


def test_arguments_are_written_as_often_as_they_may_come(commands: list[Usage]) -> None:
    text = completion.manual(commands, "1.0")
    assert ".SS kernelet config check \\fI[FILE]\\fR" in text
    assert ".SS kernelet rmi \\fIIMAGE ...\\fR" in text


def test_it_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "fish"]) == 0
    assert "complete -c kernelet -n __fish_use_subcommand -f -a serve" in capsys.readouterr().out


def test_a_packages_files(tmp_path: Path) -> None:
    completion.write(tmp_path, "1.2")
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert written == [
        "usr/share/bash-completion/completions/kernelet",
        "usr/share/fish/vendor_completions.d/kernelet.fish",
        "usr/share/man/man1/kernelet.1",
        "usr/share/zsh/vendor-completions/_kernelet",
    ]
    assert (tmp_path / "usr/share/man/man1/kernelet.1").read_text().startswith('.TH KERNELET 1 "" "kernelet 1.2"')
