"""Who a process is: from the request and the image's files, which may hold anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.fd import open_path
from runtime.container.config import ContainerConfig
from runtime.container.user import MAX_FILE, MAX_ID, parse_group, parse_passwd, resolve_user
from runtime.errors import InvalidArgument
from runtime.spec import schema

PASSWD = """root:x:0:0:root:/root:/bin/sh
web:x:1000:2000:Web:/srv/web:/bin/sh
1234:x:0:0:a trap::/bin/sh
big:x:4294967295:0::/:
broken
:x:5:5::/:
minus:x:-1:0::/:
"""
GROUP = """root:x:0:
web:x:2000:
audio:x:63:web,other
video:x:44:other
4444:x:0:
disk:x:6:other,web,
"""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    return tmp_path


def resolve(image: Path, **request: object) -> tuple[schema.User, str]:
    config = ContainerConfig(name="c", image="i", spec=schema.Spec(), **request)  # type: ignore[arg-type]
    with open_path(image) as root:
        return resolve_user(root, config)


def numbers(user: schema.User) -> tuple[int, int, list[int]]:
    return user.uid, user.gid, user.additional_gids


@pytest.mark.parametrize(
    ("request_", "expected", "home"),
    [
        ({}, (0, 0, [0]), "/root"),
        ({"run_as_username": "web"}, (1000, 2000, [6, 63, 2000]), "/srv/web"),
        ({"run_as_user": 1000}, (1000, 2000, [6, 63, 2000]), "/srv/web"),
        ({"run_as_user": 1000, "run_as_group": 7}, (1000, 7, [6, 7, 63]), "/srv/web"),
        ({"run_as_user": 1000, "run_as_group_name": "video"}, (1000, 44, [6, 44, 63]), "/srv/web"),
        ({"run_as_user": 1000, "supplemental_groups": [9, 9, 2000]}, (1000, 2000, [6, 9, 63, 2000]), "/srv/web"),
        ({"run_as_user": 1000, "strict_groups": True}, (1000, 2000, [2000]), "/srv/web"),
        ({"run_as_user": 1000, "strict_groups": True, "supplemental_groups": [9]}, (1000, 2000, [9, 2000]), "/srv/web"),
        ({"run_as_user": 4711}, (4711, 0, [0]), "/"),
        ({"run_as_user": 4711, "run_as_group": 4712}, (4711, 4712, [4712]), "/"),
        ({"run_as_user": MAX_ID}, (MAX_ID, 0, [0]), "/"),
    ],
)
def test_who_it_is(image: Path, request_: dict[str, object], expected: tuple[int, int, list[int]], home: str) -> None:
    """The primary group is among the others (CVE-2023-25173)."""
    user, found = resolve(image, **request_)
    assert (numbers(user), found) == (expected, home)


def test_a_number_is_never_looked_up_as_a_name(image: Path) -> None:
    """CVE-2026-46680: the image calls root "1234"."""
    assert resolve(image, run_as_user=1234)[0].uid == 1234
    assert resolve(image, run_as_user=1, run_as_group=4444)[0].gid == 4444


@pytest.mark.parametrize(
    ("request_", "match"),
    [
        ({"run_as_user": MAX_ID + 1}, "2147483648: must be between"),
        ({"run_as_user": 1 << 32}, "must be between"),
        ({"run_as_user": -1}, "must be between"),
        ({"run_as_user": 1, "run_as_group": 1 << 31}, "must be between"),
        ({"run_as_user": 1, "supplemental_groups": [1, -5]}, "-5: must be between"),
        ({"run_as_username": "big"}, "4294967295: must be between"),
        ({"run_as_username": "minus"}, "user 'minus': not in the image's /etc/passwd"),
        ({"run_as_username": "nobody"}, "user 'nobody': not in the image's"),
        ({"run_as_user": 1, "run_as_group_name": "nobody"}, "group 'nobody': not in the image's /etc/group"),
    ],
)
def test_who_nobody_is(image: Path, request_: dict[str, object], match: str) -> None:
    """CVE-2024-40635: what does not fit an id does not become another one."""
    with pytest.raises(InvalidArgument, match=match):
        resolve(image, **request_)


def test_an_image_without_the_files_has_numbers_all_the_same(tmp_path: Path) -> None:
    assert numbers(resolve(tmp_path)[0]) == (0, 0, [0])
    assert numbers(resolve(tmp_path, run_as_user=5)[0]) == (5, 0, [0])
    with pytest.raises(InvalidArgument, match="not in the image"):
        resolve(tmp_path, run_as_username="root")


def test_a_file_may_be_as_large_as_it_may_and_no_larger(image: Path) -> None:
    passwd = image / "etc/passwd"
    passwd.write_bytes(b"#" * (MAX_FILE - len(PASSWD) - 1) + b"\n" + PASSWD.encode())
    assert resolve(image, run_as_username="web")[0].uid == 1000
    passwd.write_bytes(passwd.read_bytes() + b"x")
    with pytest.raises(InvalidArgument, match=f"/etc/passwd: more than {MAX_FILE} bytes"):
        resolve(image, run_as_username="web")


def test_the_files_are_those_of_the_image(image: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "passwd"
    outside.write_text("evil:x:0:0::/:/bin/sh\n")
    (image / "etc/passwd").unlink()
    (image / "etc/passwd").symlink_to(outside)
    with pytest.raises(InvalidArgument, match="not in the image"):
        resolve(image, run_as_username="evil")
    (image / "etc/passwd").unlink()
    (image / "etc/passwd").symlink_to("passwd")
    with pytest.raises(InvalidArgument, match="/etc/passwd: Too many levels"):
        resolve(image, run_as_username="evil")


@given(st.binary())
def test_any_bytes_are_read_without_a_complaint(content: bytes) -> None:
    for entry in parse_passwd(content):
        assert entry.name
        assert 0 <= entry.uid < 1 << 32
        assert 0 <= entry.gid < 1 << 32
    for group in parse_group(content):
        assert group.name
        assert 0 <= group.gid < 1 << 32
        assert "" not in group.members


name = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters=":,"), min_size=1)
identity = st.integers(0, (1 << 32) - 1)


@given(st.lists(st.tuples(name, identity, identity, name)))
def test_what_was_written_is_what_is_read(users: list[tuple[str, int, int, str]]) -> None:
    content = "".join(f"{who}:x:{uid}:{gid}:comment:{home}:/bin/sh\n" for who, uid, gid, home in users).encode()
    assert [(entry.name, entry.uid, entry.gid, entry.home) for entry in parse_passwd(content)] == users


@given(st.lists(st.tuples(name, identity, st.lists(name))))
def test_groups_too(groups: list[tuple[str, int, list[str]]]) -> None:
    content = "".join(f"{who}:x:{gid}:{','.join(members)}\n" for who, gid, members in groups).encode()
    assert [(entry.name, entry.gid, list(entry.members)) for entry in parse_group(content)] == groups
