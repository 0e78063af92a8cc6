"""What a start did is kept, and so is the last one of a container that failed."""

from __future__ import annotations

import errno
from pathlib import Path

from kernel.program import Flags, Program
from runtime import history
from tests.support import launch, wait


def failing() -> Program:
    steps = Program("x")
    steps.heading("first")
    steps.call("umask", 0o22, why="a mask")
    missing = steps.call(
        "openat", Flags(("AT_FDCWD",)), "/nonexistent", 0, 0, store="file", tolerate=(errno.ENOENT,), why="if it is there"
    )
    steps.call("fchdir", missing, why="then stand in it")
    steps.heading("second")
    steps.call("chdir", "/nonexistent", why="never")
    steps.call("umask", 0, why="not reached")
    return steps


def test_each_step_is_kept_with_its_heading_and_what_became_of_it(tmp_path: Path) -> None:
    program = failing()
    history.save(tmp_path, program, launch.run(program)[0])
    mask, tolerated, skipped, failed, never = history.load(tmp_path)
    assert (mask.call, mask.heading, mask.is_fine, mask.skipped) == ("umask(022)", "first", True, False)
    assert (tolerated.result, tolerated.is_fine) == (-errno.ENOENT, True)
    assert (skipped.skipped, skipped.is_fine) == (True, True)
    assert (failed.result, failed.is_fine, failed.heading) == (-errno.ENOENT, False, "second")
    assert never.at_us is None and failed.at_us is not None and mask.at_us is not None
    assert mask.at_us <= failed.at_us


def test_of_what_was_never_kept_there_is_nothing(tmp_path: Path) -> None:
    assert history.load(tmp_path) == []
    assert history.failures(tmp_path / "none", "web") == []
    history.note_failure(tmp_path, errno.ENOENT)
    assert history.load(tmp_path) == []


def test_a_program_that_could_not_be_executed_is_noted(tmp_path: Path) -> None:
    program = failing()
    history.save(tmp_path, program, launch.run(program)[0])
    history.note_failure(tmp_path, errno.EACCES)
    last = history.load(tmp_path)[-1]
    assert (last.result, last.is_fine) == (-errno.EACCES, False)


def test_a_start_is_written_down_by_and_by_and_at_once_for_who_asks(tmp_path: Path) -> None:
    program, scribe = failing(), history.Scribe()
    outcome = launch.run(program)[0]
    asked, waited, gone = (tmp_path / name for name in ("asked", "waited", "gone"))
    for run_dir in (asked, waited):
        run_dir.mkdir()
        scribe.note(run_dir, program, outcome, {})
    scribe.note(gone, program, outcome, {})  # has no directory: nobody's loss
    scribe.settle(asked)
    assert len(history.load(asked)) == 5
    wait.until(lambda: history.load(waited), 5, "it to be quiet")
    scribe.note(gone, program, outcome, {})
    scribe.forget(gone)
    scribe.note(asked, program, outcome, {})
    (asked / history.FILE).unlink()
    scribe.close()
    assert len(history.load(asked)) == 5
    assert not gone.exists()


def test_in_a_burst_no_more_than_some_starts_wait(tmp_path: Path) -> None:
    program, scribe = failing(), history.Scribe()
    outcome = launch.run(program)[0]
    places = [tmp_path / str(number) for number in range(history.MOST_WAITING + 2)]
    for run_dir in places:
        run_dir.mkdir()
        scribe.note(run_dir, program, outcome, {})
    assert all(history.load(run_dir) for run_dir in places[:2])
    scribe.close()
    assert all(history.load(run_dir) for run_dir in places)


def test_the_last_failure_of_a_container_is_kept_until_its_sandbox_goes(tmp_path: Path) -> None:
    program = failing()
    steps = history.records(program, launch.run(program)[0])
    directory = tmp_path / "failures"
    for message in ("first", "second"):
        history.save_failure(directory, "pod1", "web/../x", message, steps)
    history.save_failure(directory, "pod2", "web/../x", "third", steps)
    history.save_failure(directory, "pod2", "other", "fourth", steps)
    assert len(list(directory.iterdir())) == 3
    assert [failure.message for failure in history.failures(directory, "web/../x")] == ["third", "second"]
    history.forget_failures(directory, "pod2")
    assert [failure.message for failure in history.failures(directory, "web/../x")] == ["second"]
    assert history.failures(directory, "other") == []
