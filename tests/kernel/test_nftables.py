"""Rules and batches, by what nft(8) reads back."""

from __future__ import annotations

import json
import subprocess
from ipaddress import IPv4Network
from typing import Any

import pytest

from kernel import nftables
from tests.support import network
from tests.support.requires import program, requires

pytestmark = requires("root", "nft")


def ruleset() -> list[dict[str, Any]]:
    """The objects that ``nft -j list ruleset`` knows, without its preamble."""
    objects: list[dict[str, Any]] = json.loads(subprocess.check_output([program("nft"), "-j", "list", "ruleset"]))["nftables"]
    return objects[1:]


def add_masquerade(subnet: str, bridge: str = "bridge0") -> None:
    batch = nftables.Batch()
    batch.add_table("ours")
    batch.add_chain("ours", "postrouting", kind="nat", hook="postrouting", priority=100)
    batch.flush_chain("ours", "postrouting")
    rule = nftables.source_in(IPv4Network(subnet)), nftables.output_is_not(bridge), nftables.masquerade()
    batch.add_rule("ours", "postrouting", *rule)
    batch.commit()


def test_nft_reads_the_chain_as_it_was_meant() -> None:
    def test() -> None:
        add_masquerade("10.85.0.0/16")
        table, chain, _ = ruleset()
        assert table["table"]["name"] == "ours"
        assert table["table"]["family"] == "ip"
        found = {key: chain["chain"][key] for key in ("name", "type", "hook", "prio", "policy")}
        assert found == {"name": "postrouting", "type": "nat", "hook": "postrouting", "prio": 100, "policy": "accept"}
        assert nftables.tables() == ["ours"]
        assert nftables.chains("ours") == ["postrouting"]
        assert nftables.chains("others") == []

    network.in_a_node(test)


@pytest.mark.parametrize(
    "subnet", ["10.0.0.0/8", "10.85.0.0/16", "10.88.0.0/20", "172.16.32.0/19", "10.1.2.128/25", "10.9.8.248/29"]
)
def test_a_rule_means_its_prefix(subnet: str) -> None:
    def test() -> list[dict[str, Any]]:
        add_masquerade(subnet)
        expressions: list[dict[str, Any]] = ruleset()[2]["rule"]["expr"]
        return expressions

    source, output, action = network.in_a_node(test)
    address, _, length = subnet.partition("/")
    assert source["match"]["left"] == {"payload": {"protocol": "ip", "field": "saddr"}}
    assert source["match"]["right"] == {"prefix": {"addr": address, "len": int(length)}}
    assert output["match"] == {"op": "!=", "left": {"meta": {"key": "oifname"}}, "right": "bridge0"}
    assert action == {"masquerade": None}


def test_making_it_again_leaves_one_rule() -> None:
    def test() -> None:
        add_masquerade("10.85.0.0/16")
        add_masquerade("10.86.0.0/16")
        rules = [item["rule"] for item in ruleset() if "rule" in item]
        assert [rule["expr"][0]["match"]["right"]["prefix"]["addr"] for rule in rules] == ["10.86.0.0"]

    network.in_a_node(test)


def test_a_batch_with_one_refused_change_changes_nothing() -> None:
    def test() -> None:
        batch = nftables.Batch()
        batch.add_table("ours")
        batch.add_chain("ours", "postrouting", kind="nat", hook="postrouting", priority=100)
        batch.add_rule("ours", "nowhere", nftables.masquerade())
        with pytest.raises(FileNotFoundError, match=r"add rule to chain nowhere: No such file or directory: 'ours'"):
            batch.commit()
        assert ruleset() == []

    network.in_a_node(test)


def test_a_table_is_deleted_with_all_in_it_and_only_it() -> None:
    def test() -> None:
        subprocess.run([program("nft"), "add table ip others; add table ip6 ours"], check=True)
        add_masquerade("10.85.0.0/16")
        assert nftables.delete_table("ours")
        assert [item["table"]["name"] for item in ruleset() if item["table"]["family"] == "ip"] == ["others"]
        assert not nftables.delete_table("ours")

    network.in_a_node(test)
