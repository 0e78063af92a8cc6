"""A failure as a sentence that a person can do something with, and that tells no secret."""

from __future__ import annotations

import errno

from kernel.program import Program, Vector
from runtime.container.failure import command_failure, describe_failure, shorten
from runtime.container.process import execute
from runtime.spec import schema


def program() -> Program:
    steps = Program("init")
    steps.call("setsid", why="alone")
    steps.call("pivot_root", ".", ".", why="swap", hint="the new root must be a mount point")
    environment = ["PATH=/bin:/opt/tools:/usr/bin", "PASSWORD=secret"]
    execute(steps, schema.Process(args=["tool", "--flag"], env=environment))
    return steps


def test_a_step_is_named_with_its_number_its_call_the_reason_and_a_hint() -> None:
    sentence = describe_failure(program(), 1, errno.EINVAL)
    assert sentence == 'step 2 of 5, pivot_root(".", "."): invalid argument — the new root must be a mount point'


def test_without_a_hint_and_without_an_errno() -> None:
    assert describe_failure(program(), 0, errno.EPERM) == "step 1 of 5, setsid(): operation not permitted"
    assert describe_failure(program(), 0, 0) == "step 1 of 5, setsid(): the process ended there"


def test_of_several_places_the_one_that_said_more_is_told() -> None:
    steps = program()
    results = [0, 0, -errno.ENOENT, -errno.EACCES, -errno.ENOENT]
    assert describe_failure(steps, 4, errno.ENOENT, results).startswith('step 4 of 5, execve("/opt/tools/tool"')
    assert "permission denied" in describe_failure(steps, 4, errno.ENOENT, results)
    assert describe_failure(steps, 4, errno.ENOENT).startswith('step 5 of 5, execve("/usr/bin/tool"')


def test_a_command_is_told_as_it_was_written_and_its_environment_is_not() -> None:
    sentence = command_failure(program(), errno.ENOENT)
    assert sentence == (
        "cannot execute 'tool': no such file or directory — the program, or the interpreter that it names, is not in the image"
    )
    assert "secret" not in sentence


def test_a_name_that_is_not_utf_8_is_told_all_the_same() -> None:
    steps = Program("init")
    execute(steps, schema.Process(args=["/t\udcff"]))
    assert isinstance(steps.steps[-1].arguments[1], Vector)
    assert command_failure(steps, errno.ENOENT).startswith("cannot execute '/t\\udcff'")


def test_a_long_text_is_cut() -> None:
    assert shorten("x" * 160) == "x" * 160
    assert shorten("x" * 161) == "x" * 159 + "…"
