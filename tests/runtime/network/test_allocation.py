"""Addresses: one owner each, in order, round and round."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from runtime.errors import AddressesExhausted
from runtime.network.allocation import AddressPool, next_free
from runtime.store import Store

SMALL = IPv4Network("10.9.8.16/28")  # 13 addresses for pods: .18 to .30


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "state.db")
    yield store
    store.close()


@given(st.data())
def test_the_next_free_address_is_free_usable_and_the_nearest(data: st.DataObject) -> None:
    subnet = IPv4Network((data.draw(st.integers(0, 2**24 - 1)) << 8, data.draw(st.integers(20, 29))), strict=False)
    usable = list(subnet)[2:-1]
    taken = set(data.draw(st.lists(st.sampled_from(usable), max_size=40)))
    last = data.draw(st.none() | st.sampled_from(usable))
    found = next_free(subnet, taken, last)
    after = 0 if last is None else usable.index(last) + 1
    in_order = [*usable[after:], *usable[:after]]
    assert found == next((address for address in in_order if address not in taken), None)


def test_addresses_are_given_in_order_and_not_again_at_once(store: Store) -> None:
    pool = AddressPool(store, SMALL)
    assert pool.allocate("a") == IPv4Address("10.9.8.18")
    pool.release("a")
    assert pool.allocate("b") == IPv4Address("10.9.8.19")


def test_allocation_wraps_over_the_end_and_skips_gateway_and_broadcast(store: Store) -> None:
    pool = AddressPool(store, SMALL)
    given_out = []
    for number in range(26):
        given_out.append(str(pool.allocate(f"pod{number}")))
        pool.release(f"pod{number}")
    assert given_out == [f"10.9.8.{last}" for last in range(18, 31)] * 2


def test_an_owner_keeps_its_address(store: Store) -> None:
    pool = AddressPool(store, SMALL)
    assert pool.allocate("a") == pool.allocate("a") == pool.find("a")
    assert pool.owners() == {"a"}


def test_exhaustion_is_said_clearly_and_ends_with_a_release(store: Store) -> None:
    pool = AddressPool(store, SMALL)
    for number in range(13):
        pool.allocate(f"pod{number}")
    with pytest.raises(AddressesExhausted, match=r"pod subnet 10\.9\.8\.16/28: all of its 13 addresses are in use"):
        pool.allocate("one too many")
    assert pool.find("one too many") is None
    freed = pool.find("pod7")
    pool.release("pod7")
    assert pool.allocate("one too many") == freed


def test_after_a_restart_rows_are_kept_and_the_order_goes_on(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db")
    pool = AddressPool(store, SMALL)
    first = pool.allocate("a")
    store.close()
    store = Store(tmp_path / "state.db")
    pool = AddressPool(store, SMALL)
    assert pool.find("a") == first
    assert pool.allocate("b") == first + 1
    store.close()


def test_another_subnets_rows_are_not_ours_but_a_shared_address_is_taken(store: Store) -> None:
    wide, narrow = AddressPool(store, IPv4Network("10.9.8.0/24")), AddressPool(store, IPv4Network("10.9.8.0/29"))
    assert wide.allocate("a") == IPv4Address("10.9.8.2")
    assert narrow.allocate("b") == IPv4Address("10.9.8.3")
    other = AddressPool(store, IPv4Network("10.10.0.0/24"))
    assert other.find("a") is None
    assert other.allocate("a") == IPv4Address("10.10.0.2")


@pytest.mark.parametrize("prefix", [30, 31, 32])
def test_a_subnet_without_room_for_pods_is_refused(store: Store, prefix: int) -> None:
    with pytest.raises(ValueError, match="needs at least 8 addresses"):
        AddressPool(store, IPv4Network(f"10.0.0.0/{prefix}"))


def test_threads_never_share_an_address(store: Store) -> None:
    pool = AddressPool(store, IPv4Network("10.9.0.0/24"))
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda number: pool.allocate(f"pod{number}"), range(100)))
    assert len(set(found)) == 100


class Pool(RuleBasedStateMachine):
    """Any order of allocations and releases, against a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.store = Store(Path(self.directory.name) / "state.db")
        self.pool = AddressPool(self.store, SMALL)
        self.model: dict[str, IPv4Address] = {}

    @rule(owner=st.sampled_from([f"pod{number}" for number in range(16)]))
    def allocate(self, owner: str) -> None:
        if owner not in self.model and len(self.model) == 13:
            with pytest.raises(AddressesExhausted):
                self.pool.allocate(owner)
            return
        address = self.pool.allocate(owner)
        assert self.model.setdefault(owner, address) == address
        assert address in list(SMALL)[2:-1]

    @rule(owner=st.sampled_from([f"pod{number}" for number in range(16)]))
    def release(self, owner: str) -> None:
        self.pool.release(owner)
        self.model.pop(owner, None)

    @rule()
    def restart(self) -> None:
        self.pool = AddressPool(self.store, SMALL)

    @invariant()
    def owners_are_those_of_the_model_and_addresses_differ(self) -> None:
        assert self.pool.owners() == set(self.model)
        assert len(set(self.model.values())) == len(self.model)

    def teardown(self) -> None:
        self.store.close()
        self.directory.cleanup()


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
