"""What is done about a profile before it is asked for; that it confines is seen in guests (tests/vm/inside/test_apparmor.py)."""

from __future__ import annotations

import errno

import pytest

from kernel import apparmor as kernel
from runtime.container import apparmor
from runtime.errors import Unsupported, WrongState


class Modules:
    """The kernel, with the profiles *known*."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *known: str, refuses: int = 0) -> None:
        self.known, self.loaded = set(known), list[bytes]()
        monkeypatch.setattr(kernel, "is_enabled", lambda: True)
        monkeypatch.setattr(kernel, "profiles", lambda: frozenset(self.known))

        def load(policy: bytes) -> None:
            if refuses:
                raise OSError(refuses, "No")
            self.loaded.append(policy)

        monkeypatch.setattr(kernel, "load", load)


def test_the_default_profile_is_loaded_when_it_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = Modules(monkeypatch, "other")
    apparmor.see_to(apparmor.DEFAULT)
    (policy,) = modules.loaded
    assert b"kernelet-default\0" in policy
    modules.known.add(apparmor.DEFAULT)
    apparmor.see_to(apparmor.DEFAULT)
    assert len(modules.loaded) == 1


@pytest.mark.parametrize("profile", ["", "unconfined", "known", "known//&other", ":ns://known"])
def test_what_needs_nothing(monkeypatch: pytest.MonkeyPatch, profile: str) -> None:
    modules = Modules(monkeypatch, "known")
    apparmor.see_to(profile)
    assert modules.loaded == []


def test_a_profile_that_is_not_loaded_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    Modules(monkeypatch, "known")
    with pytest.raises(WrongState, match="profile mine: not loaded on this node: apparmor_parser -r FILE loads it"):
        apparmor.see_to("mine")


def test_a_default_profile_that_cannot_be_loaded_is_no_container_without(monkeypatch: pytest.MonkeyPatch) -> None:
    Modules(monkeypatch, refuses=errno.EACCES)
    with pytest.raises(Unsupported, match=r"kernelet-default: it cannot be loaded: no; that needs CAP_MAC_ADMIN"):
        apparmor.see_to(apparmor.DEFAULT)


def test_without_apparmor_there_is_nothing_to_see_to(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = Modules(monkeypatch)
    monkeypatch.setattr(kernel, "is_enabled", lambda: False)
    apparmor.see_to("mine")
    assert modules.loaded == []
