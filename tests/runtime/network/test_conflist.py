"""Configuration lists: what is read, what is refused by name, and what a plugin is given to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import InvalidArgument
from runtime.network import conflist
from runtime.network.conflist import VERSIONS, Conflist

LIST: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "pods",
    "plugins": [
        {"type": "bridge", "bridge": "cni0", "ipam": {"type": "host-local"}},
        {"type": "portmap", "capabilities": {"portMappings": True, "bandwidth": False}},
    ],
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", fullmatch=True)
types = st.from_regex(r"[a-z][a-z0-9-]{0,12}", fullmatch=True)
own_keys = st.text(min_size=1, max_size=10).filter(
    lambda key: key not in ("type", "capabilities", "cniVersion", "name", *conflist._RESERVED) and not key.startswith("cni.dev/")
)
plugins = st.builds(
    lambda kind, settings, capabilities: {**settings, "type": kind, "capabilities": capabilities},
    types,
    st.dictionaries(own_keys, json_values, max_size=4),
    st.dictionaries(st.text(max_size=10), st.booleans(), max_size=3),
)
lists = st.fixed_dictionaries(
    {"cniVersion": st.sampled_from(VERSIONS), "name": names, "plugins": st.lists(plugins, min_size=1, max_size=3)},
    optional={"disableCheck": st.booleans(), "disableGC": st.booleans(), "other": json_values},
)


def parsed(**changes: Any) -> Conflist:
    return conflist.parse(json.dumps(LIST | changes))


def test_a_list_is_read_as_it_was_meant() -> None:
    network = parsed()
    assert (network.name, network.version, network.capabilities) == ("pods", "1.0.0", {"portMappings"})
    assert [plugin.type for plugin in network.plugins] == ["bridge", "portmap"]
    assert network.knows("CHECK") and not network.knows("GC") and not network.knows("STATUS")
    newer = parsed(cniVersion="1.1.0", disableGC=True)
    assert newer.knows("STATUS") and not newer.knows("GC")
    assert not parsed(disableCheck="TRUE").knows("CHECK")
    assert not parsed(cniVersion="0.3.1").results_are_told


def test_the_newest_version_that_both_know_counts() -> None:
    assert parsed(cniVersions=["0.4.0", "1.1.0", "7.0.0"]).version == "1.1.0"
    assert parsed(cniVersion=None, cniVersions=["1.0.0"]).version == "1.0.0"


def test_a_plugin_reads_its_settings_and_what_it_is_capable_of() -> None:
    network = parsed()
    bridge, portmap = network.plugins
    told = {"portMappings": [{"hostPort": 1}], "bandwidth": {"ingressRate": 1}}
    assert json.loads(bridge.document(network, told=told)) == {
        **LIST["plugins"][0],
        "cniVersion": "1.0.0",
        "name": "pods",
    }
    assert json.loads(portmap.document(network, told=told, result={"ips": []}, **{"cni.dev/attachments": []})) == {
        "type": "portmap",
        "cniVersion": "1.0.0",
        "name": "pods",
        "runtimeConfig": {"portMappings": [{"hostPort": 1}]},
        "prevResult": {"ips": []},
        "cni.dev/attachments": [],
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "-pods"}, "name: '-pods' must be letters"),
        ({"name": None}, "name: None"),
        ({"cniVersion": "0.2.0"}, "cniVersion: 0.2.0 is none of those that kernelet knows: 0.3.0"),
        ({"cniVersion": None}, "cniVersion: nothing is none"),
        ({"cniVersions": "1.0.0"}, "cniVersions: must be a list"),
        ({"plugins": []}, "plugins: must be a list of one plugin or more"),
        ({"plugins": [1]}, r"plugins\[0\]: must be a JSON object"),
        ({"plugins": [{"type": "../sh"}]}, r"plugins\[0\].type: '../sh' must be the name of a program, without a path"),
        ({"plugins": [{"type": ".."}]}, r"plugins\[0\].type"),
        ({"plugins": [{"type": "a"}, {}]}, r"plugins\[1\].type: None"),
        ({"plugins": [{"type": "a", "capabilities": ["x"]}]}, r"plugins\[0\].capabilities: must say true or false"),
        ({"plugins": [{"type": "a", "prevResult": {}}]}, r"plugins\[0\].prevResult: is what a runtime tells"),
        ({"plugins": [{"type": "a", "cni.dev/attachments": []}]}, r"plugins\[0\].cni.dev/attachments"),
        ({"disableCheck": "maybe"}, "disableCheck: 'maybe' is not true or false"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^{message}"):
        parsed(**changes)


@pytest.mark.parametrize("text", ["", "[]", "{", "NaN", '{"name": "a", "x": 1e999}', '{"name": Infinity}', "[" * 100_000])
def test_what_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        conflist.parse(text)


def test_the_first_file_by_name_counts(tmp_path: Path) -> None:
    assert conflist.find(tmp_path / "none") is None
    assert conflist.find(tmp_path) is None
    for name in ("20.conflist", ".05.conflist", "README", "30.conf", "05.conflist.bak"):
        (tmp_path / name).write_text(json.dumps(LIST))
    found = conflist.find(tmp_path)
    assert found is not None and found.name == "20.conflist"
    (tmp_path / "10.conf").write_text(json.dumps({"cniVersion": "0.4.0", "name": "one", "type": "bridge", "mtu": 1400}))
    found = conflist.find(tmp_path)
    assert found is not None and found.name == "10.conf"
    network = conflist.load(found)
    assert (network.name, [plugin.type for plugin in network.plugins]) == ("one", ["bridge"])
    assert conflist.parse(network.text) == network


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.conflist").write_text('{"name": 5}')
    with pytest.raises(InvalidArgument, match=rf"^{tmp_path}/a.conflist: name: 5"):
        conflist.load(tmp_path / "a.conflist")
    (tmp_path / "b.conflist").write_bytes(b"\xff{}")
    with pytest.raises(InvalidArgument, match=r"b.conflist: not UTF-8"):
        conflist.load(tmp_path / "b.conflist")
    (tmp_path / "c.conflist").write_bytes(b" " * (conflist.SIZE_LIMIT_BYTES + 1))
    with pytest.raises(InvalidArgument, match=r"c.conflist: larger than"):
        conflist.load(tmp_path / "c.conflist")


def test_plugins_that_are_put_beside_a_list_follow_its_own(tmp_path: Path) -> None:
    path = tmp_path / "10.conflist"
    path.write_text(json.dumps(LIST))
    (tmp_path / "pods").mkdir()
    for name, kind in (("20.conf", "tuning"), ("10.conf", "firewall"), ("30.conflist", "sbr")):
        (tmp_path / "pods" / name).write_text(json.dumps({"type": kind}))
    network = conflist.load(path)
    assert [plugin.type for plugin in network.plugins] == ["bridge", "portmap", "firewall", "tuning"]
    assert conflist.parse(network.text) == network
    path.write_text(json.dumps({key: LIST[key] for key in ("cniVersion", "name")}))
    assert [plugin.type for plugin in conflist.load(path).plugins] == ["firewall", "tuning"]
    path.write_text(json.dumps(LIST | {"loadOnlyInlinedPlugins": True}))
    assert [plugin.type for plugin in conflist.load(path).plugins] == ["bridge", "portmap"]
    path.write_text(json.dumps(LIST))
    (tmp_path / "pods/20.conf").write_text("{")
    with pytest.raises(InvalidArgument, match=rf"^{tmp_path}/pods/20.conf: not JSON"):
        conflist.load(path)


@settings(deadline=None)
@given(lists)
def test_any_good_list_is_read_and_its_text_is_the_same_list(document: dict[str, Any]) -> None:
    network = conflist.parse(json.dumps(document))
    assert conflist.parse(network.text) == network
    assert [plugin.type for plugin in network.plugins] == [entry["type"] for entry in document["plugins"]]
    for plugin, entry in zip(network.plugins, document["plugins"], strict=True):
        told = {name: index for index, name in enumerate(entry["capabilities"])}
        read = json.loads(plugin.document(network, told=told))
        assert read["name"] == document["name"] and read["cniVersion"] == document["cniVersion"]
        assert read.get("runtimeConfig", {}) == {name: told[name] for name, wanted in entry["capabilities"].items() if wanted}
        assert "capabilities" not in read
        assert all(read[key] == value for key, value in entry.items() if key != "capabilities")


def spoilt(good: dict[str, Any]) -> st.SearchStrategy[str]:
    """A list with anything at some of its keys."""
    wrong = st.dictionaries(st.sampled_from([*good, "cniVersions"]), json_values)
    return wrong.map(lambda changes: json.dumps(good | changes))


@settings(deadline=None)
@given(st.text() | json_values.map(json.dumps) | lists.flatmap(spoilt))
def test_anything_is_read_or_refused(text: str) -> None:
    try:
        network = conflist.parse(text)
    except InvalidArgument as error:
        assert str(error)
    else:
        assert network.plugins and network.version in VERSIONS
