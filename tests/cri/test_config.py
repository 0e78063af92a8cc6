"""kernelet.toml: what is not said is the default, what is wrong is named."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from cri import config, config_files
from runtime.errors import InvalidArgument
from runtime.image.mirrors import Mirrors


def test_an_empty_file_is_the_default() -> None:
    assert config.parse("") == config.Config()
    assert config.Config().socket == Path("/run/kernelet/kernelet.sock")


def test_every_key() -> None:
    parsed = config.parse(
        """
        root_dir = "/srv/k"
        run_dir = "/run/k"
        socket = "/run/k/cri.sock"
        cgroup_driver = "systemd"
        cgroup_parent = "/pods/"
        [log]
        level = "warning"
        format = "json"
        [network]
        bridge = "k-0"
        subnet = "10.1.0.0/24"
        [streaming]
        address = "::1"
        port = 10010
        tls_cert_file = "/etc/k/cert.pem"
        tls_key_file = "/etc/k/key.pem"
        [registry]
        insecure = ["a:5000"]
        [registry.mirrors]
        "docker.io" = "https://mirror"
        """
    )
    assert parsed == config.Config(
        root_dir=Path("/srv/k"),
        run_dir=Path("/run/k"),
        socket=Path("/run/k/cri.sock"),
        cgroup_driver="systemd",
        cgroup_parent="/pods",
        log=config.LogConfig(level="warning", format="json"),
        network=config.NetworkConfig(bridge="k-0", subnet=ipaddress.IPv4Network("10.1.0.0/24")),
        streaming=config.StreamingConfig("::1", 10010, "/etc/k/cert.pem", "/etc/k/key.pem"),
        registry=config.RegistryConfig(mirrors={"docker.io": Mirrors(("https://mirror",))}, insecure=("a:5000",)),
    )
    assert parsed.paths.run_dir == Path("/run/k")


def test_the_socket_goes_with_the_run_dir() -> None:
    assert config.parse('run_dir = "/run/k"').socket == Path("/run/k/kernelet.sock")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("root_dir", "not TOML"),
        ("rootdir = '/a'", "rootdir: unknown key"),
        ("[network]\nsubnets = ''", "network.subnets: unknown key"),
        ("root_dir = 'a'", "root_dir: 'a' is not an absolute path"),
        ("root_dir = 5", "root_dir: not a string"),
        ("network = 5", "network: not a table"),
        ("[log]\nlevel = 'loud'", "log.level: 'loud' is none of debug, info, warning, error"),
        ("cgroup_driver = 'runc'", "cgroup_driver: 'runc' is none of cgroupfs, systemd"),
        ("cgroup_parent = '/'", "cgroup_parent: '/'"),
        ("cgroup_parent = '/a/../b'", "cgroup_parent"),
        ("[network]\nbridge = 'a b'", "network.bridge: 'a b' is not the name of a link"),
        ("[network]\nbridge = 'abcdefghijklmnop'", "network.bridge"),
        ("[network]\nsubnet = '10.0.0.1/16'", "network.subnet: 10.0.0.1/16 has host bits set"),
        ("[network]\nsubnet = '10.0.0.0/30'", "has no room for pods"),
        ("[network]\nkind = 'calico'", "network.kind: 'calico' is none of auto, built-in, cni"),
        ("[network]\ncni_config_dir = 'net.d'", "network.cni_config_dir: 'net.d' is not an absolute path"),
        ("[network]\ncni_plugin_dirs = ['bin']", "network.cni_plugin_dirs: each must be an absolute path"),
        ("[streaming]\naddress = 'here'", "streaming.address: 'here' is not an IP address"),
        ("[streaming]\nport = 65536", "streaming.port"),
        ("[streaming]\ntls_key_file = 'key.pem'", "streaming.tls_key_file: 'key.pem' is not an absolute path"),
        ("[registry]\ninsecure = 'a'", "registry.insecure: not a list of hosts"),
        ("[registry.mirrors]\na = 'b'", "registry.mirrors.'a': 'b' is not an http or https address"),
        ("[registry.mirrors]\na = 'http://'", "registry.mirrors.'a': 'http://' is not an http or https address"),
        ("[registry.mirrors]\na = []", "registry.mirrors.'a': names no mirror"),
        ("[registry.mirrors]\na = 5", "registry.mirrors.'a'.urls: not a list of http or https addresses"),
        ("[registry.mirrors]\na = {url = 'http://b'}", "registry.mirrors.'a'.url: unknown key"),
        ("[registry.mirrors]\na = {urls = ['http://b'], fall_back = 1}", "registry.mirrors.'a'.fall_back: not true or false"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        config.parse(text)
    assert message in str(caught.value)


def test_the_file_is_named_too(tmp_path: Path) -> None:
    file = tmp_path / "kernelet.toml"
    with pytest.raises(InvalidArgument, match="no such file"):
        config.load(file)
    file.write_text("x = 1")
    with pytest.raises(InvalidArgument, match=rf"^{file}: x: unknown key$"):
        config.load(file)
    file.write_text('run_dir = "/run/x"')
    assert config.load(file).run_dir == Path("/run/x")


def test_the_document_says_the_default_and_has_every_key() -> None:
    assert config.parse(config.document()) == config.Config()
    for section in (config.Config, *(type(value) for value in vars_of(config.Config()) if is_dataclass(value))):
        for key in fields(section):
            assert re.search(rf'^(# )?"?{key.name}"? = |^\[(\w+\.)?{key.name}\]', config.document(), re.MULTILINE), key.name


def vars_of(value: config.Config) -> list[object]:
    return [getattr(value, each.name) for each in fields(value)]


def test_drop_ins_are_merged_in_the_order_of_their_names(tmp_path: Path) -> None:
    file, dropins = tmp_path / "kernelet.toml", tmp_path / "kernelet.toml.d"
    dropins.mkdir()
    file.write_text('cgroup_parent = "/a"\n[network]\nbridge = "k-0"\n[registry.mirrors]\n"a" = "http://a"\n')
    (dropins / "20-b.toml").write_text('cgroup_parent = "/b"\n[registry.mirrors]\n"b" = "http://b"\n')
    (dropins / "10-c.toml").write_text('cgroup_parent = "/c"\n[network]\nsubnet = "10.1.0.0/24"\n')
    (dropins / "30-d.toml.off").write_text("nonsense")
    loaded = config.load(file)
    assert loaded.cgroup_parent == "/b"
    assert loaded.network == config.NetworkConfig(bridge="k-0", subnet=ipaddress.IPv4Network("10.1.0.0/24"))
    assert loaded.registry.mirrors == {"a": Mirrors(("http://a",)), "b": Mirrors(("http://b",))}
    (dropins / "15.toml").write_text("[network]\nbrigde = ''")
    with pytest.raises(InvalidArgument, match=rf"^{dropins}/15.toml: network.brigde: unknown key$"):
        config.load(file)


def test_drop_ins_count_without_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_files, "DEFAULT_PATH", tmp_path / "kernelet.toml")
    assert config.load(None) == config.Config()
    (tmp_path / "kernelet.toml.d").mkdir()
    (tmp_path / "kernelet.toml.d" / "a.toml").write_text('[log]\nlevel = "debug"\n')
    assert config.load(None).log.level == "debug"


def test_mirrors_are_one_several_or_a_table() -> None:
    text = """
        [registry.mirrors]
        a = "http://1.example"
        "b:5000" = ["http://1.example", "https://2.example/b"]
        "*" = { urls = ["https://3.example"], fall_back = false }
    """
    assert config.parse(text).registry.mirrors == {
        "a": Mirrors(("http://1.example",), fall_back=True),
        "b:5000": Mirrors(("http://1.example", "https://2.example/b"), fall_back=True),
        "*": Mirrors(("https://3.example",), fall_back=False),
    }
