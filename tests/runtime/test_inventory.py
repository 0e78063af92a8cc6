"""Records: on disk before anybody is told, never half changed, found by the beginning of their id."""

from __future__ import annotations

import threading
import time

import pytest

from runtime.container.state import Container
from runtime.errors import ContainerNotFound, InvalidArgument, SandboxNotFound, WrongState
from runtime.inventory import Inventory
from runtime.journal import Journal
from runtime.sandbox.state import Sandbox
from runtime.store import Store
from tests.support import wishes


@pytest.fixture
def inventory(store: Store, journal: Journal) -> Inventory:
    return Inventory(store, journal)


def sandbox(name: str = "a" * 64, **more: object) -> Sandbox:
    return Sandbox(id=name, config=wishes.sandbox(), **more)  # type: ignore[arg-type]


def container(name: str = "c" * 64, sandbox_id: str = "a" * 64, **more: object) -> Container:
    return Container(id=name, sandbox_id=sandbox_id, image_id="i", config=wishes.container(["true"]), **more)  # type: ignore[arg-type]


def reloaded(store: Store, journal: Journal) -> Inventory:
    again = Inventory(store, journal)
    again.load()
    return again


def test_what_is_saved_is_loaded_again(inventory: Inventory, store: Store, journal: Journal) -> None:
    inventory.save_sandbox(sandbox(ip="10.0.0.1"))
    inventory.save_container(container(pid=7, exit_code=3))
    again = reloaded(store, journal)
    assert again.sandboxes == inventory.sandboxes
    assert again.containers == inventory.containers


def test_a_record_with_bytes_that_are_no_text_survives(inventory: Inventory, store: Store, journal: Journal) -> None:
    record = container()
    assert record.config.spec.process is not None
    record.config.spec.process.env.append("A=\udcff\udc80")
    inventory.save_container(record)
    assert reloaded(store, journal).containers == inventory.containers


def test_what_is_not_written_is_not_shown(inventory: Inventory, store: Store) -> None:
    store.close()
    with pytest.raises(Exception, match="closed database"):
        inventory.save_sandbox(sandbox())
    assert inventory.sandboxes == {}


def test_a_change_replaces_the_record(inventory: Inventory, store: Store, journal: Journal) -> None:
    inventory.save_container(container())
    before = inventory.find_container("c" * 64)
    after = inventory.change_container("c" * 64, pid=5)
    assert (before.pid, after.pid, inventory.find_container("c" * 64).pid) == (0, 5, 5)
    assert reloaded(store, journal).find_container("c" * 64).pid == 5
    with pytest.raises(ContainerNotFound):
        inventory.change_container("d" * 64, pid=5)


def test_no_change_is_lost_beside_another(inventory: Inventory, store: Store, journal: Journal) -> None:
    inventory.save_container(container())
    names = ["pid", "exit_code", "started_at_ns", "finished_at_ns"]

    def work(name: str) -> None:
        for number in range(1, 26):
            inventory.change_container("c" * 64, **{name: number})

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in (inventory, reloaded(store, journal)):
        record = each.find_container("c" * 64)
        assert [getattr(record, name) for name in names] == [25] * 4


def test_an_act_ends_with_its_record(inventory: Inventory, journal: Journal) -> None:
    for save, drop, owner, record in (
        (inventory.save_sandbox, inventory.drop_sandbox, "a" * 64, sandbox()),
        (inventory.save_container, inventory.drop_container, "c" * 64, container()),
    ):
        journal.begin(owner, "make")
        save(record, finishes="make")  # type: ignore[operator]
        assert journal.open_intents() == []
        journal.begin(owner, "remove")
        drop(owner, finishes="remove")
        assert journal.open_intents() == []
    assert (inventory.sandboxes, inventory.containers) == ({}, {})


def test_an_id_is_found_by_its_beginning(inventory: Inventory) -> None:
    for name in ("abc" + "0" * 61, "abd" + "0" * 61):
        inventory.save_sandbox(sandbox(name))
        inventory.save_container(container(name))
    assert inventory.find_sandbox("abc").id == "abc" + "0" * 61
    assert inventory.find_container("abd" + "0" * 61).id == "abd" + "0" * 61
    for find in (inventory.find_sandbox, inventory.find_container):
        with pytest.raises(InvalidArgument, match="2 ids begin like this"):
            find("ab")
        with pytest.raises(InvalidArgument, match="must not be empty"):
            find("")
    with pytest.raises(SandboxNotFound, match="sandbox xyz: not found"):
        inventory.find_sandbox("xyz")
    with pytest.raises(ContainerNotFound):
        inventory.find_container("abc1")


def test_an_id_that_is_the_beginning_of_another_is_itself(inventory: Inventory) -> None:
    for name in ("ab", "abc"):
        inventory.save_sandbox(sandbox(name))
    assert inventory.find_sandbox("ab").id == "ab"


def test_containers_of_one_sandbox(inventory: Inventory) -> None:
    inventory.save_container(container("1", "a"))
    inventory.save_container(container("2", "b"))
    assert [each.id for each in inventory.containers_of("b")] == ["2"]


def test_times_only_grow_also_over_a_restart_with_a_clock_set_back(
    inventory: Inventory, store: Store, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = time.time_ns() + 10**15
    inventory.save_sandbox(sandbox(created_at_ns=later))
    again = reloaded(store, journal)
    monkeypatch.setattr(time, "time_ns", lambda: 1)
    assert [again.now() for _ in range(3)] == [later + 1, later + 2, later + 3]


def test_waiting_ends_with_the_change_or_with_the_time(inventory: Inventory) -> None:
    inventory.save_container(container())
    assert not inventory.wait_until(lambda: False, 0.01)
    timer = threading.Timer(0.05, inventory.change_container, ("c" * 64,), {"exit_code": 9})
    timer.start()
    begun = time.monotonic()
    assert inventory.wait_until(lambda: inventory.find_container("c" * 64).exit_code == 9, 10)
    assert time.monotonic() - begun < 5
    timer.join()


def test_ids_are_64_digits_that_nobody_has(inventory: Inventory) -> None:
    ids = {inventory.new_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(len(each) == 64 and set(each) <= set("0123456789abcdef") for each in ids)


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({}, "created"),
        ({"started_at_ns": 1}, "running"),
        ({"started_at_ns": 1, "finished_at_ns": 2}, "exited"),
        ({"finished_at_ns": 2}, "exited"),
        ({"is_lost": True, "started_at_ns": 1}, "unknown"),
        ({"is_lost": True, "finished_at_ns": 1}, "exited"),
    ],
)
def test_a_state_is_what_happened(facts: dict[str, object], state: str) -> None:
    record = container(**facts)
    assert record.state == state
    if state != "created":
        with pytest.raises(WrongState, match=f"is {state}: only a created container can be started"):
            record.require_created()
