"""The security context: capabilities, filter, labels, paths, user; absent is not empty."""

from __future__ import annotations

from typing import Any

import pytest

from cri import security
from cri.api import api_pb2 as api
from runtime.errors import InvalidArgument, Unsupported
from runtime.spec import defaults, schema
from tests.cri.wishes import KNOWN, no_file


def context(**fields: Any) -> api.LinuxContainerSecurityContext:
    return api.LinuxContainerSecurityContext(**fields)


def granted(**fields: Any) -> schema.Capabilities:
    return security.capabilities(context(capabilities=api.Capability(**fields)), KNOWN)


def test_default_capabilities() -> None:
    sets = security.capabilities(context(), KNOWN)
    assert sets.bounding == sets.effective == sets.permitted == list(defaults.CAPABILITIES)
    assert sets.inheritable == sets.ambient == []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"add_capabilities": ["NET_ADMIN"]}, {*defaults.CAPABILITIES, "CAP_NET_ADMIN"}),
        ({"add_capabilities": ["cap_sys_time"]}, {*defaults.CAPABILITIES, "CAP_SYS_TIME"}),
        ({"drop_capabilities": ["KILL"]}, set(defaults.CAPABILITIES) - {"CAP_KILL"}),
        ({"add_capabilities": ["ALL"], "drop_capabilities": ["CHOWN"]}, set(KNOWN) - {"CAP_CHOWN"}),
        ({"drop_capabilities": ["all"], "add_capabilities": ["CHOWN"]}, {"CAP_CHOWN"}),
        ({"drop_capabilities": ["ALL"]}, set()),
        ({"add_capabilities": ["KILL"], "drop_capabilities": ["KILL"]}, set(defaults.CAPABILITIES) - {"CAP_KILL"}),
    ],
)
def test_add_and_drop(fields: dict[str, list[str]], expected: set[str]) -> None:
    sets = granted(**fields)
    assert set(sets.bounding) == set(sets.effective) == set(sets.permitted) == expected
    assert sets.inheritable == sets.ambient == []


def test_ambient_capabilities_are_in_all_five_sets_unless_dropped() -> None:
    sets = granted(drop_capabilities=["ALL", "KILL"], add_ambient_capabilities=["NET_ADMIN", "KILL"])
    for name in ("bounding", "effective", "permitted", "inheritable", "ambient"):
        assert getattr(sets, name) == ["CAP_NET_ADMIN"]


def test_a_privileged_container_has_every_capability() -> None:
    wish = context(privileged=True, capabilities=api.Capability(drop_capabilities=["ALL"]))
    assert security.capabilities(wish, KNOWN).bounding == list(KNOWN)


def test_an_unknown_capability_is_refused_also_when_dropped() -> None:
    for field in ("add_capabilities", "drop_capabilities", "add_ambient_capabilities"):
        with pytest.raises(InvalidArgument, match="there is no 'NET_RAWW'"):
            granted(**{field: ["NET_RAWW"]})


def test_what_the_daemon_does_not_have_it_cannot_give() -> None:
    few = [*defaults.CAPABILITIES, "CAP_SYS_ADMIN"]

    def sets(**fields: Any) -> schema.Capabilities:
        return security.capabilities(context(capabilities=api.Capability(**fields)), few)

    assert set(sets(add_capabilities=["ALL"]).bounding) == set(few)
    assert set(security.capabilities(context(privileged=True), few).bounding) == set(few)
    # to drop what nobody has is no mistake
    assert sets(drop_capabilities=["SYS_TIME"]).bounding == list(defaults.CAPABILITIES)
    for field in ("add_capabilities", "add_ambient_capabilities"):
        with pytest.raises(Unsupported, match="CAP_SYS_TIME: the daemon does not have it"):
            sets(**{field: ["SYS_TIME"]})


PROFILE = api.SecurityProfile
MODULES = ("apparmor", "selinux")
DOCUMENT = b'{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}'


def filter_of(wish: api.LinuxContainerSecurityContext, document: bytes = DOCUMENT) -> schema.Seccomp | None:
    return security.seccomp(wish, security.capabilities(wish, KNOWN), lambda path: document)


def test_no_seccomp_message_is_unconfined_and_an_empty_one_is_the_default() -> None:
    assert filter_of(context()) is None
    default = filter_of(context(seccomp=PROFILE()))
    assert default is not None and default.default_action == "SCMP_ACT_ERRNO"
    assert filter_of(context(seccomp=PROFILE(profile_type=PROFILE.Unconfined))) is None


def test_the_default_filter_follows_the_capabilities() -> None:
    def allows(wish: api.LinuxContainerSecurityContext, name: str) -> bool:
        profile = filter_of(wish)
        assert profile is not None
        return any(name in rule.names and rule.action == "SCMP_ACT_ALLOW" for rule in profile.syscalls)

    plain = context(seccomp=PROFILE())
    admin = context(seccomp=PROFILE(), capabilities=api.Capability(add_capabilities=["SYS_ADMIN"]))
    assert not allows(plain, "sethostname")
    assert allows(admin, "sethostname")


def test_a_local_profile_is_read() -> None:
    wish = context(seccomp=PROFILE(profile_type=PROFILE.Localhost, localhost_ref="/p.json"))
    profile = filter_of(wish)
    assert profile is not None and profile.syscalls[0].names == ["read"]


@pytest.mark.parametrize("document", [b"", b"[]", b"\xff", b'{"defaultAction": 1}', b'{"syscalls": []}'])
def test_a_broken_profile_is_refused(document: bytes) -> None:
    wish = context(seccomp=PROFILE(profile_type=PROFILE.Localhost, localhost_ref="/p.json"))
    with pytest.raises(InvalidArgument, match=r"^seccomp: profile /p\.json: "):
        filter_of(wish, document)


def test_a_profile_that_is_not_there_is_refused() -> None:
    for reference, message in (("/p.json", "no such file or directory"), ("p.json", "not absolute")):
        wish = context(seccomp=PROFILE(profile_type=PROFILE.Localhost, localhost_ref=reference))
        with pytest.raises(InvalidArgument, match=message):
            security.seccomp(wish, schema.Capabilities(), no_file)


def test_the_deprecated_string_counts_where_the_message_is_absent() -> None:
    assert filter_of(context(seccomp_profile_path="unconfined")) is None
    assert filter_of(context(seccomp_profile_path="runtime/default")) is not None
    local = filter_of(context(seccomp_profile_path="localhost//p.json"))
    assert local is not None and local.syscalls[0].names == ["read"]
    both = context(seccomp_profile_path="localhost//p.json", seccomp=PROFILE(profile_type=PROFILE.Unconfined))
    assert filter_of(both) is None
    with pytest.raises(InvalidArgument, match="none of"):
        filter_of(context(seccomp_profile_path="other"))


def test_a_privileged_container_has_no_filter() -> None:
    assert filter_of(context(privileged=True, seccomp=PROFILE())) is None


@pytest.mark.parametrize(
    ("fields", "profile"),
    [
        ({}, "kernelet-default"),
        ({"privileged": True}, ""),
        ({"apparmor": PROFILE()}, "kernelet-default"),
        ({"apparmor": PROFILE(), "privileged": True}, ""),
        ({"apparmor": PROFILE(profile_type=PROFILE.Localhost, localhost_ref="p"), "privileged": True}, "p"),
        ({"apparmor": PROFILE(profile_type=PROFILE.Unconfined)}, ""),
        ({"apparmor": PROFILE(profile_type=PROFILE.Localhost, localhost_ref="localhost/p")}, "p"),
        ({"apparmor": PROFILE(profile_type=PROFILE.Localhost, localhost_ref="p")}, "p"),
        ({"apparmor_profile": "localhost/p"}, "p"),
        ({"apparmor_profile": "runtime/default"}, "kernelet-default"),
        ({"apparmor_profile": "unconfined"}, ""),
        ({"apparmor_profile": "localhost/p", "apparmor": PROFILE()}, "kernelet-default"),
    ],
)
def test_apparmor(fields: dict[str, Any], profile: str) -> None:
    assert security.apparmor_profile(context(**fields), MODULES) == profile


def test_an_apparmor_profile_without_a_name_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="not the name of a profile"):
        security.apparmor_profile(context(apparmor=PROFILE(profile_type=PROFILE.Localhost)), MODULES)


def test_a_label_without_its_module_is_refused() -> None:
    confined = context(apparmor=PROFILE(profile_type=PROFILE.Localhost, localhost_ref="p"))
    with pytest.raises(Unsupported, match="profile p: this node's kernel runs without AppArmor"):
        security.apparmor_profile(confined, ("selinux",))
    with pytest.raises(Unsupported, match="selinux_options: this node's kernel runs without SELinux"):
        security.selinux_labels(context(selinux_options=api.SELinuxOption(level="s0")), ("apparmor",))
    for kind in (PROFILE.RuntimeDefault, PROFILE.Unconfined):
        assert security.apparmor_profile(context(apparmor=PROFILE(profile_type=kind)), ()) == ""


def test_who_is_not_to_be_confined_is_not() -> None:
    agent = context(selinux_options=api.SELinuxOption(type="spc_t", level="s0"))
    assert security.selinux_labels(agent, ()) == ("", "")
    assert security.selinux_labels(agent, MODULES)[0] == "system_u:system_r:spc_t:s0"
    privileged = context(privileged=True, selinux_options=api.SELinuxOption(level="s0:c1"))
    assert security.selinux_labels(privileged, MODULES)[0] == "system_u:system_r:spc_t:s0:c1"


def test_selinux_labels() -> None:
    assert security.selinux_labels(context(selinux_options=api.SELinuxOption()), ()) == ("", "")
    wish = context(selinux_options=api.SELinuxOption(type="spc_t", level="s0:c4,c5"))
    assert security.selinux_labels(wish, MODULES) == (
        "system_u:system_r:spc_t:s0:c4,c5",
        "system_u:object_r:container_file_t:s0:c4,c5",
    )
    for bad in ({"level": "s0,c1,c2,c3"}, {"type": "a:b"}, {"user": "a b"}):
        with pytest.raises(InvalidArgument, match="selinux_options"):
            security.selinux_labels(context(selinux_options=api.SELinuxOption(**bad)), MODULES)


def test_masked_paths_are_the_requests_own_where_there_is_a_context() -> None:
    own = api.LinuxContainerConfig(security_context=context(masked_paths=["/proc/kcore"], readonly_paths=["/proc/sys"]))
    assert security.masked_and_readonly(own) == (["/proc/kcore"], ["/proc/sys"])
    unmasked = api.LinuxContainerConfig(security_context=context())
    assert security.masked_and_readonly(unmasked) == ([], [])
    absent = security.masked_and_readonly(api.LinuxContainerConfig())
    assert absent == (list(defaults.MASKED_PATHS), list(defaults.READONLY_PATHS))
    privileged = api.LinuxContainerConfig(security_context=context(privileged=True, masked_paths=["/proc/kcore"]))
    assert security.masked_and_readonly(privileged) == ([], [])


def number(value: int) -> api.Int64Value:
    return api.Int64Value(value=value)


@pytest.mark.parametrize(
    ("fields", "image_user", "expected"),
    [
        ({}, "", security.User()),
        ({}, "app", security.User(name="app")),
        ({}, "1000", security.User(uid=1000)),
        ({}, "1000:2000", security.User(uid=1000, gid=2000)),
        ({}, "app:staff", security.User(name="app", group_name="staff")),
        ({"run_as_user": number(0)}, "1000:2000", security.User(uid=0)),
        ({"run_as_username": "www"}, "app", security.User(name="www")),
        ({"run_as_user": number(5), "run_as_group": number(6)}, "", security.User(uid=5, gid=6)),
        ({"run_as_username": "www", "run_as_group": number(0)}, "", security.User(name="www", gid=0)),
        (
            {"supplemental_groups": [7, 8], "supplemental_groups_policy": api.Strict},
            "",
            security.User(supplemental=[7, 8], strict=True),
        ),
    ],
)
def test_user(fields: dict[str, Any], image_user: str, expected: security.User) -> None:
    assert security.user(context(**fields), image_user) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"run_as_group": number(5)}, "run_as_group needs"),
        ({"run_as_user": number(5), "run_as_username": "a"}, "both given"),
        ({"run_as_user": number(-1)}, "run_as_user: -1"),
        ({"run_as_user": number(2**32 - 1)}, "run_as_user: 4294967295"),
        ({"supplemental_groups": [-5]}, "supplemental_groups: -5"),
    ],
)
def test_a_wrong_user_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        security.user(context(**fields), "")
