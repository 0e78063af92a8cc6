"""A configuration that has changed: what applies, what waits, and that it is said."""

from __future__ import annotations

import logging

import pytest

from cri.config import Config, parse
from cri.reload import FIXED, Change, Reloader, changes
from runtime.errors import InvalidArgument
from runtime.image.mirrors import Mirrors


def test_the_keys_that_differ_are_named() -> None:
    before, after = Config(), parse('cgroup_parent = "/a"\n[log]\nlevel = "debug"\n[registry.mirrors]\n"a" = "http://b"')
    assert list(changes(before, before)) == []
    assert list(changes(before, after)) == [
        Change("cgroup_parent", "/kernelet", "/a"),
        Change("log.level", "info", "debug"),
        Change("registry.mirrors", {}, {"a": Mirrors(("http://b",))}),
    ]


def test_every_reason_is_a_keys() -> None:
    for key in FIXED:
        value: object = Config()
        for part in key.split("."):
            value = getattr(value, part)


def test_what_can_applies_and_what_cannot_is_told_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    applied: list[Config] = []
    wanted = parse('cgroup_parent = "/a"\n[log]\nlevel = "debug"\nformat = "json"')
    reloader = Reloader(Config(), lambda: wanted, {"log": applied.append})
    with caplog.at_level(logging.INFO, "cri.reload"):
        summary = reloader.reload()
    assert summary == "reloaded: 2 applied, waiting for a restart: cgroup_parent"
    [config] = applied
    assert (config.log, config.cgroup_parent) == (wanted.log, "/kernelet")
    assert [record.getMessage() for record in caplog.records] == [
        "reload: cgroup_parent: /kernelet -> /a: not applied, needs a restart: pods run in it",
        "reload: log.level: info -> debug: applied",
        "reload: log.format: text -> json: applied",
        "reload: 2 applied, waiting for a restart: cgroup_parent",
    ]
    # What waits is said again, what was applied is not.
    assert reloader.reload() == "reloaded: 0 applied, waiting for a restart: cgroup_parent"
    assert len(applied) == 1


def test_nothing_changes_when_it_cannot_be_read(caplog: pytest.LogCaptureFixture) -> None:
    def reread() -> Config:
        raise InvalidArgument("k.toml: x: unknown key")

    reloader = Reloader(Config(), reread, {})
    assert reloader.reload() == "reload failed: k.toml: x: unknown key"
    assert "nothing was changed: k.toml: x: unknown key" in caplog.text
    assert reloader.running == Config()


def test_the_same_again_is_no_change() -> None:
    assert Reloader(Config(), Config, {}).reload() == "reloaded: nothing has changed"
