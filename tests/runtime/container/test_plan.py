"""Plans: composed without root, and compared step by step."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from kernel.program import BEHIND
from runtime.container.init import pause_program
from runtime.container.plan import Plan, compare, describe, load_spec, plan, title_of
from runtime.errors import InvalidSpec
from runtime.spec import schema
from tests.runtime.container.test_shell import as_a_user, spec


def planned(change: Callable[[schema.Spec], object] = lambda _: None) -> Plan:
    return plan("x", spec(change))


def test_every_step_is_there_with_its_reason_below_a_heading() -> None:
    steps = planned().steps
    assert [step.number for step in steps] == list(range(1, len(steps) + 1))
    assert all(step.why and step.heading for step in steps)
    assert steps[-1].call == "execve"
    found = [title for title, _ in planned().sections()]
    order = [
        "leaving the caller",
        "the new process",
        "namespaces",
        "mounts",
        "devices",
        "the pivot",
        "user and groups",
        "the program",
    ]
    assert [title for title in found if title in order] == order
    assert len(found) == len(set(found)), "a facility is in one place"


def test_the_parent_half_has_a_heading_of_its_own() -> None:
    program = pause_program("x", in_cgroup=True)
    headings = program.facilities()
    assert len(headings) == len(program.all_steps)
    assert headings[len(program.steps) :] == [BEHIND] * len(program.behind)
    assert BEHIND not in headings[: len(program.steps)]
    assert describe(program, {}).steps[0].heading == "leaving the caller"


def test_a_plan_needs_nothing_of_what_it_speaks_of(tmp_path: Path) -> None:
    """Sources that are not there, a user who is nobody, a directory that cannot be written."""
    wanted = spec(as_a_user)
    wanted.mounts.append(schema.Mount(destination="/data", type="bind", source="/nonexistent", options=["rbind"]))
    wanted.linux.namespaces[1].path = "/nonexistent/net"
    (tmp_path / "config.json").write_bytes(msgspec.json.encode(wanted))
    before = sorted(os.listdir(tmp_path))
    steps = plan(title_of(tmp_path), load_spec(tmp_path)).steps
    assert sorted(os.listdir(tmp_path)) == before
    assert any("<mount of /nonexistent>" in step.text for step in steps)
    assert any(step.call == "setns" and "</nonexistent/net>" in step.text for step in steps)


def test_a_plan_does_not_differ_from_itself() -> None:
    assert compare(planned(as_a_user), planned(as_a_user)) == []


def test_an_argument_that_changed_is_told_from_what_it_was() -> None:
    def mask(made: schema.Spec) -> None:
        assert made.process is not None
        made.process.user.umask = 0o77

    [difference] = compare(planned(), planned(mask))
    assert difference.left is not None and difference.right is not None
    assert (difference.left.call, difference.heading) == ("umask", "working directory")
    assert difference.changed_arguments() == [("022", "077")]


def test_what_was_added_in_the_middle_stands_alone() -> None:
    """Later mounts have other numbers then, in their slots too: no difference."""

    def add(made: schema.Spec) -> None:
        made.mounts.insert(2, schema.Mount(destination="/data", type="bind", source="/x", options=["rbind"]))

    added = compare(planned(), planned(add))
    assert [difference.left for difference in added] == [None] * len(added)
    assert [difference.right.call for difference in added if difference.right][-2:] == ["openat2", "move_mount"]
    removed = compare(planned(add), planned())
    assert [difference.right for difference in removed] == [None] * len(added)


def test_a_capability_that_is_taken_away() -> None:
    def drop(made: schema.Spec) -> None:
        assert made.process is not None and made.process.capabilities is not None
        kept = [name for name in made.process.capabilities.bounding if name != "CAP_KILL"]
        made.process.capabilities = schema.Capabilities(bounding=kept, effective=kept, permitted=kept)

    bounding, sets = compare(planned(), planned(drop))
    assert bounding.left is None and bounding.right is not None
    assert bounding.right.text == "prctl(PR_CAPBSET_DROP, CAP_KILL)"
    [(before, after)] = sets.changed_arguments()
    assert "|KILL|" in before and "|KILL|" not in after


@pytest.mark.parametrize(
    ("document", "match"),
    [(None, "no such file"), (b"{", "not a JSON document"), (b'{"ociVersion": "1.0.2", "process": {"args": []}}', "process")],
)
def test_what_is_no_bundle_is_refused_by_name(tmp_path: Path, document: bytes | None, match: str) -> None:
    if document is not None:
        (tmp_path / "config.json").write_bytes(document)
    with pytest.raises(InvalidSpec, match=match) as refused:
        load_spec(tmp_path)
    assert str(tmp_path / "config.json") in str(refused.value)
