"""kernelet doctor: lacks with their costs, and whether the daemon can work at all."""

from __future__ import annotations

import json

import pytest

from cri.__main__ import main
from runtime import facilities
from runtime.facilities import Facility

FOUND = [
    Facility("paper", True, "much", "nothing is written"),
    Facility("ink", False, "dried up", "nothing is seen"),
    Facility("light", None, "", "nothing is read"),
]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Facility]:
    shown = list(FOUND)
    monkeypatch.setattr(facilities, "look", lambda paths: shown)
    return shown


def test_what_lacks_is_shown_with_its_cost(found: list[Facility], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "no  ink    dried up",
        "           nothing is seen",
        "?   light  nothing is read",
        "1 of 3 are there; --all shows them",
    ]
    assert main(["doctor", "--all"]) == 0
    assert "yes paper  much" in capsys.readouterr().out.splitlines()


def test_without_what_is_needed_the_status_says_so(found: list[Facility], capsys: pytest.CaptureFixture[str]) -> None:
    found.append(Facility("a hand", False, "", "nobody writes", is_needed=True))
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "Kernelet cannot work here: a hand"
    assert main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)[-1] == {
        "name": "a hand", "has": False, "found": "", "cost": "nobody writes", "is_needed": True,
    }  # fmt: skip


def test_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--all", "--json"])
    names = [facility["name"] for facility in json.loads(capsys.readouterr().out)]
    assert "overlay" in names and "seccomp filters" in names
