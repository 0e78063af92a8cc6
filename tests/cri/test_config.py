"""kernelet.toml: what is not said is the default, what is wrong is named."""

from __future__ import annotations

import ipaddress
import textwrap
from pathlib import Path

import pytest

from cri import config
from runtime.errors import InvalidArgument


def test_an_empty_file_is_the_default() -> None:
    assert config.parse("") == config.Config()
    assert config.Config().socket == Path("/run/kernelet/kernelet.sock")


def test_every_key() -> None:
    parsed = config.parse(
        """
        root_dir = "/srv/k"
        run_dir = "/run/k"
        socket = "/run/k/cri.sock"
        cgroup_parent = "/pods/"
        [network]
        bridge = "k-0"
        subnet = "10.1.0.0/24"
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
        cgroup_parent="/pods",
        network=config.NetworkConfig(bridge="k-0", subnet=ipaddress.IPv4Network("10.1.0.0/24")),
        registry=config.RegistryConfig(mirrors={"docker.io": "https://mirror"}, insecure=("a:5000",)),
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
        ("cgroup_parent = '/'", "cgroup_parent: '/'"),
        ("cgroup_parent = '/a/../b'", "cgroup_parent"),
        ("[network]\nbridge = 'a b'", "network.bridge: 'a b' is not the name of a link"),
        ("[network]\nbridge = 'abcdefghijklmnop'", "network.bridge"),
        ("[network]\nsubnet = '10.0.0.1/16'", "network.subnet: 10.0.0.1/16 has host bits set"),
        ("[network]\nsubnet = '10.0.0.0/31'", "has no room for pods"),
        ("[registry]\ninsecure = 'a'", "registry.insecure: not a list of hosts"),
        ("[registry.mirrors]\na = 'b'", "registry.mirrors.'a': 'b' is not an http or https address"),
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


def test_the_example_in_the_docstring_is_right() -> None:
    assert config.__doc__ is not None
    example = textwrap.dedent(config.__doc__.partition("\n\n")[2])
    parsed = config.parse(example)
    assert (parsed.root_dir, parsed.network) == (config.Config().root_dir, config.NetworkConfig())
    assert parsed.registry.mirrors == {"docker.io": "https://mirror.lan"}
