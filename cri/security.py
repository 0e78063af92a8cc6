"""A security context to capabilities, filter, labels, paths and user (pure but for a profile's file).

Absent and empty differ: no seccomp message at all is *unconfined*, an empty one asks for the
default profile; masked paths are the request's own when there is a security context, the defaults
when there is none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import msgspec

from cri.api import api_pb2 as api
from kernel.capability import CAPABILITIES
from runtime.container import apparmor
from runtime.errors import InvalidArgument, Unsupported
from runtime.spec import defaults, schema
from runtime.spec.checks import MAX_ID

#: A "super-privileged container", in the policies that there are for containers.
UNCONFINED_TYPE = "spc_t"
_LABEL_PART = re.compile(r"[A-Za-z0-9_.-]*")
_LEVEL = re.compile(r"(s\d+(-s\d+)?(:c\d+([.,]c\d+)*(-s\d+:c\d+([.,]c\d+)*)?)?)?")


@dataclass(frozen=True, slots=True)
class User:
    """Who the process is to be; names wait for the image's files, see ContainerConfig."""

    uid: int | None = None
    name: str = ""
    gid: int | None = None
    group_name: str = ""
    supplemental: list[int] = field(default_factory=list)
    strict: bool = False


def user(context: api.LinuxContainerSecurityContext, image_user: str) -> User:
    """The request's user, else the image's (``name``, ``uid``, ``name:group`` ...), else root.

    Raises InvalidArgument, among others for a group without a user: whose would it be.
    """
    by_number, by_name = context.HasField("run_as_user"), bool(context.run_as_username)
    gid = _id(context.run_as_group.value, "run_as_group") if context.HasField("run_as_group") else None
    if by_number and by_name:
        raise InvalidArgument("run_as_user and run_as_username are both given")
    if gid is not None and not by_number and not by_name:
        raise InvalidArgument("run_as_group needs run_as_user or run_as_username")
    groups = [_id(group, "supplemental_groups") for group in context.supplemental_groups]
    if context.supplemental_groups_policy not in (api.Merge, api.Strict):
        raise InvalidArgument(f"unknown supplemental_groups_policy {context.supplemental_groups_policy}")
    strict = context.supplemental_groups_policy == api.Strict
    if by_number:
        return User(_id(context.run_as_user.value, "run_as_user"), "", gid, "", groups, strict)
    if by_name:
        return User(None, context.run_as_username, gid, "", groups, strict)
    name, _, group = image_user.partition(":")
    uid, image_gid = _number(name), _number(group)
    return User(uid, "" if uid is not None else name, image_gid, "" if image_gid is not None else group, groups, strict)


def capabilities(context: api.LinuxContainerSecurityContext, grantable: Sequence[str]) -> schema.Capabilities:
    """The five sets; *grantable* are the capabilities that the daemon has to give, which is what ALL stands for.

    ALL is applied first, then single names, drops last: ``add ALL, drop CHOWN`` is all but CHOWN.
    Added capabilities are not inheritable (CVE-2022-24769); ambient ones have to be.
    Raises InvalidArgument for a name nobody knows, Unsupported for one that cannot be given.
    """
    if context.privileged:
        return _sets(set(grantable), set())
    add = _names(context.capabilities.add_capabilities)
    drop = _names(context.capabilities.drop_capabilities)
    ambient = _names(context.capabilities.add_ambient_capabilities)
    granted = set(grantable) if "ALL" in add else set(defaults.CAPABILITIES)
    if "ALL" in drop:
        granted = set()
    raised = set(grantable) if "ALL" in ambient else set(ambient)
    added = (set(add) | raised) - {"ALL"} - set(drop)
    if missing := sorted(added - set(grantable)):
        raise Unsupported(f"capabilities: {missing[0]}: the daemon does not have it and cannot give it")
    return _sets((granted | added) - set(drop), raised - set(drop))


def seccomp(
    context: api.LinuxContainerSecurityContext,
    granted: schema.Capabilities,
    read: Callable[[str], bytes],
    otherwise: str = "unconfined",
) -> schema.Seccomp | None:
    """The filter's profile, None for no filter; *read* gives the content of a profile's file.

    The deprecated string counts only where the message is absent, and *otherwise*, the handler's word, where both are.
    A privileged container has no filter, whatever it asks for.
    """
    if context.privileged:
        return None
    deprecated = context.seccomp_profile_path or (f"localhost/{otherwise}" if otherwise.startswith("/") else otherwise)
    kind, path = _profile(context, "seccomp", deprecated)
    if kind == api.SecurityProfile.Unconfined:
        return None
    if kind == api.SecurityProfile.RuntimeDefault:
        # The table of system calls is large and unconfined containers never need it.
        from runtime.container.seccomp import default_profile

        return default_profile(granted.bounding)
    if not path.startswith("/") or "\0" in path:
        raise InvalidArgument(f"seccomp: the profile's path {path!r} is not absolute, or holds a NUL")
    return _load_profile(path, read)


def apparmor_profile(context: api.LinuxContainerSecurityContext, modules: Collection[str]) -> str:
    """The profile to change to at execve; empty for none.

    Where nothing is asked for it is the runtime's default, as long as the container is not privileged; on a node without
    AppArmor there is none.  *modules* are the security modules that the kernel has.  Raises InvalidArgument, and
    Unsupported for a profile of the node's where there is no AppArmor.
    """
    kind, name = _profile(context, "apparmor", context.apparmor_profile)
    if kind == api.SecurityProfile.RuntimeDefault or not (context.HasField("apparmor") or context.apparmor_profile):
        return apparmor.DEFAULT if "apparmor" in modules and not context.privileged else ""
    if kind == api.SecurityProfile.Unconfined:
        return ""
    # critest sends "localhost/name" in the new field as well, the kubelet the bare name.
    name = name.removeprefix("localhost/")
    if not name or not name.isprintable():
        raise InvalidArgument(f"apparmor: {name!r} is not the name of a profile")
    if "apparmor" not in modules:
        raise Unsupported(f"apparmor: profile {name}: this node's kernel runs without AppArmor")
    return name


def selinux_labels(context: api.LinuxContainerSecurityContext, modules: Collection[str]) -> tuple[str, str]:
    """The process's label and its files'; both empty when nothing was asked for.

    *modules* are the security modules that the kernel has.  Raises InvalidArgument, and Unsupported where there is no
    SELinux; but spc_t, which network plugins ask for, is not to be confined, and is not without SELinux either.
    """
    wish = context.selinux_options
    if not (wish.user or wish.role or wish.type or wish.level):
        return "", ""
    for name, value in (("user", wish.user), ("role", wish.role), ("type", wish.type)):
        if not _LABEL_PART.fullmatch(value):
            raise InvalidArgument(f"selinux_options.{name}: {value!r} is not part of a label")
    if not _LEVEL.fullmatch(wish.level):
        raise InvalidArgument(f"selinux_options.level: {wish.level!r} is not a level such as s0:c1,c2")
    if "selinux" not in modules:
        if wish.type == UNCONFINED_TYPE:
            return "", ""
        raise Unsupported("selinux_options: this node's kernel runs without SELinux")
    owner, level = wish.user or "system_u", wish.level or "s0"
    kind = wish.type or (UNCONFINED_TYPE if context.privileged else "container_t")
    process = f"{owner}:{wish.role or 'system_r'}:{kind}:{level}"
    return process, f"{owner}:object_r:container_file_t:{level}"


def masked_and_readonly(linux: api.LinuxContainerConfig) -> tuple[list[str], list[str]]:
    """The paths to hide and those to write-protect.

    A kubelet sends its lists, and two empty ones for procMount Unmasked: they stand as they are.
    """
    context = linux.security_context
    if context.privileged:
        return [], []
    if linux.HasField("security_context"):
        return list(context.masked_paths), list(context.readonly_paths)
    return list(defaults.MASKED_PATHS), list(defaults.READONLY_PATHS)


def _profile(
    context: api.LinuxContainerSecurityContext, name: str, deprecated: str
) -> tuple[api.SecurityProfile.ProfileType, str]:
    """Kind and reference of the profile *name*, from the message or else from the *deprecated* string."""
    if context.HasField(name):
        profile: api.SecurityProfile = getattr(context, name)
        if profile.profile_type not in (0, 1, 2):
            raise InvalidArgument(f"{name}: unknown profile type {profile.profile_type}")
        return profile.profile_type, profile.localhost_ref
    if deprecated in ("", "unconfined"):
        return api.SecurityProfile.Unconfined, ""
    if deprecated in ("runtime/default", "docker/default"):
        return api.SecurityProfile.RuntimeDefault, ""
    if deprecated.startswith("localhost/"):
        return api.SecurityProfile.Localhost, deprecated.removeprefix("localhost/")
    raise InvalidArgument(f"{name}: {deprecated!r} is none of unconfined, runtime/default, localhost/...")


def _load_profile(path: str, read: Callable[[str], bytes]) -> schema.Seccomp:
    try:
        return msgspec.json.decode(read(path), type=schema.Seccomp)
    except OSError as error:
        raise InvalidArgument(f"seccomp: profile {path}: {(error.strerror or str(error)).lower()}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(f"seccomp: profile {path}: {error}") from None


def _names(wishes: Sequence[str]) -> list[str]:
    """Capability names in the kernel's spelling; ALL stays ALL."""
    names = []
    for wish in wishes:
        name = wish.upper().removeprefix("CAP_")
        if name != "ALL" and f"CAP_{name}" not in CAPABILITIES:
            raise InvalidArgument(f"capabilities: there is no {wish!r}")
        names.append(name if name == "ALL" else f"CAP_{name}")
    return names


def _sets(granted: set[str], ambient: set[str]) -> schema.Capabilities:
    ordered = [name for name in CAPABILITIES if name in granted]
    raised = [name for name in CAPABILITIES if name in ambient]
    return schema.Capabilities(
        bounding=ordered, effective=list(ordered), permitted=list(ordered), inheritable=raised, ambient=list(raised)
    )


def _id(value: int, where: str) -> int:
    if not 0 <= value <= MAX_ID:
        raise InvalidArgument(f"{where}: {value} is not between 0 and {MAX_ID}")
    return value


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None
