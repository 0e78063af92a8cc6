"""Container config + image config -> what the runtime is asked for, an OCI spec in it (pure).

``container_config`` is the recipe.  Whatever can never work is refused here, when the container is
created; what only the node can tell is handed in as ``Host``.
"""

from __future__ import annotations

import os
import posixpath
import signal
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from cri import mounts, resources, security, signals
from cri.api import api_pb2 as api
from cri.config import HandlerConfig
from runtime.container.config import ContainerConfig
from runtime.errors import InvalidArgument
from runtime.image.config import ImageConfig
from runtime.sandbox.config import Mode, SandboxConfig
from runtime.spec import defaults, load, schema
from runtime.spec.checks import MAX_PATH

#: NAME_MAX.
MAX_NAME = 255

#: How the keys of annotations begin that name CDI devices, separated by commas.
CDI_ANNOTATIONS = "cdi.k8s.io/"

MODES: dict[int, Mode] = {api.POD: "pod", api.CONTAINER: "container", api.NODE: "node", api.TARGET: "target"}


@dataclass(frozen=True, slots=True)
class Host:
    """What a spec depends on and only the node knows."""

    hostname: str
    #: The capabilities that the daemon has to give.
    capabilities: Sequence[str]
    #: The security modules of the kernel that processes have labels of: "apparmor", "selinux".
    security_modules: Collection[str]
    #: The devices at or below a path of the host.
    find_devices: Callable[[str], list[schema.Device]]
    #: The id of an image by what a request calls it.
    find_image: Callable[[str], str]
    #: The content of a profile's file.
    read_file: Callable[[str], bytes]
    #: The pod's way to run.
    handler: HandlerConfig
    #: Puts CDI devices into a spec; returns the groups that its process is to be in, too.
    inject_devices: Callable[[schema.Spec, Sequence[str]], list[int]]


def container_config(
    config: api.ContainerConfig, sandbox: SandboxConfig, image_id: str, image: ImageConfig, host: Host
) -> ContainerConfig:
    """The request *config* for a container of *image* in *sandbox*, in the runtime's words.

    Raises InvalidArgument (InvalidSpec where the field is the spec's) and Unsupported; both name
    the field.
    """
    context = config.linux.security_context
    _check(config, sandbox)
    user = security.user(context, image.user)
    pid_mode = _pid_mode(context.namespace_options, sandbox)
    spec = _spec(config, sandbox, image, host, pid_mode)
    groups = host.inject_devices(spec, [*host.handler.cdi_devices, *_cdi_devices(config)])
    load.validate(spec)
    return ContainerConfig(
        name=config.metadata.name,
        attempt=config.metadata.attempt,
        image=image_id,
        spec=spec,
        log_path=_log_path(sandbox.log_directory, config.log_path),
        stdin=config.stdin,
        stdin_once=config.stdin_once,
        tty=config.tty,
        stop_signal=_stop_signal(config, image),
        relabelled=[mount.host_path for mount in config.mounts if mount.selinux_relabel and spec.linux.mount_label],
        host_cgroups=context.privileged and not sandbox.uid_mappings,
        pid_mode=pid_mode,
        pid_target=context.namespace_options.target_id if pid_mode == "target" else "",
        run_as_user=user.uid,
        run_as_username=user.name,
        run_as_group=user.gid,
        run_as_group_name=user.group_name,
        supplemental_groups=[*user.supplemental, *groups],
        strict_groups=user.strict,
        # Deterministic: the runtime tells a repeated request by its equality.
        attachment=config.SerializeToString(deterministic=True),
    )


def _spec(config: api.ContainerConfig, sandbox: SandboxConfig, image: ImageConfig, host: Host, pid_mode: Mode) -> schema.Spec:
    linux, context = config.linux, config.linux.security_context
    has_all_devices = context.privileged and not host.handler.privileged_without_host_devices
    nodes, rules = mounts.devices(config.devices, privileged=has_all_devices, find=host.find_devices)
    limits = resources.resources(linux.resources)
    limits.devices = rules
    masked, readonly = security.masked_and_readonly(linux)
    process = _process(config, sandbox, image, host)
    granted = process.capabilities or schema.Capabilities()
    return schema.Spec(
        root=schema.Root(path="rootfs", readonly=context.readonly_rootfs),
        process=process,
        mounts=mounts.mounts(config.mounts, privileged=context.privileged, find_image=host.find_image),
        linux=schema.Linux(
            namespaces=_namespaces(sandbox, pid_mode, privileged=context.privileged),
            devices=nodes,
            resources=limits,
            seccomp=security.seccomp(context, granted, host.read_file, host.handler.seccomp),
            rootfs_propagation=mounts.root_propagation(config.mounts),
            masked_paths=masked,
            readonly_paths=readonly,
            mount_label=security.selinux_labels(context, host.security_modules)[1],
        ),
        annotations=_annotations(config, sandbox),
    )


def _process(config: api.ContainerConfig, sandbox: SandboxConfig, image: ImageConfig, host: Host) -> schema.Process:
    context = config.linux.security_context
    return schema.Process(
        terminal=config.tty,
        args=arguments(config, image),
        env=environment(config, image, sandbox.hostname or host.hostname),
        cwd=posixpath.join("/", config.working_dir or image.working_dir),
        capabilities=security.capabilities(context, host.capabilities),
        no_new_privileges=context.no_new_privs,
        apparmor_profile=security.apparmor_profile(context, host.security_modules),
        selinux_label=security.selinux_labels(context, host.security_modules)[0],
        # Always given: the daemon's own score is far below zero, and would be inherited.
        oom_score_adj=config.linux.resources.oom_score_adj,
    )


def arguments(config: api.ContainerConfig, image: ImageConfig) -> list[str]:
    """The program and its arguments: command replaces the entrypoint, args the cmd.

    A command without args drops the image's cmd: it was written for another program.
    """
    command = list(config.command) or list(image.entrypoint)
    args = list(config.args)
    if not args and not config.command:
        args = list(image.cmd)
    if not command and not args:
        raise InvalidArgument("no command specified: neither the container nor the image names one")
    return [*command, *args]


def environment(config: api.ContainerConfig, image: ImageConfig, hostname: str) -> list[str]:
    """The environment: defaults, then the image's, then the request's, by name; values may be any bytes.

    Values that are no UTF-8 are spelled as ``os.fsdecode`` does.  HOME is missing: it depends on
    the user, whom the runtime looks up.
    """
    merged = {"PATH": defaults.PATH, "HOSTNAME": hostname}
    if config.tty:
        merged["TERM"] = "xterm"
    for entry in image.env:
        name, _, value = entry.partition("=")
        merged[name] = value
    for pair in config.envs:
        if not pair.key or "=" in pair.key:
            raise InvalidArgument(f"envs: {pair.key!r} is not the name of a variable")
        merged[pair.key] = os.fsdecode(pair.value)
    return [f"{name}={value}" for name, value in merged.items() if name]


def _check(config: api.ContainerConfig, sandbox: SandboxConfig) -> None:
    """What the parts below would each not see."""
    context = config.linux.security_context
    if not config.metadata.name:
        raise InvalidArgument("metadata.name is empty")
    if context.privileged and not sandbox.privileged:
        raise InvalidArgument("a privileged container needs a privileged sandbox")
    _check_user_namespace(context.namespace_options, sandbox)
    # The sandbox decided about network and ipc; the container's word on them is only echoed.
    if context.namespace_options.pid not in MODES:
        raise InvalidArgument(f"namespace_options.pid: unknown mode {context.namespace_options.pid}")


def user_namespace(options: api.NamespaceOption) -> tuple[list[schema.IdMapping], list[schema.IdMapping]]:
    """The maps of uids and gids that are asked for; empty for the host's user namespace: no message, or mode NODE.

    Raises InvalidArgument for anything but one map of each that holds root.
    """
    wish = options.userns_options
    if not options.HasField("userns_options"):
        return [], []
    if wish.mode == api.NODE:
        if wish.uids or wish.gids:
            raise InvalidArgument("userns_options: mode NODE takes no mappings")
        return [], []
    if wish.mode != api.POD:
        raise InvalidArgument("userns_options: mode must be POD or NODE")
    if len(wish.uids) != 1 or len(wish.gids) != 1:
        raise InvalidArgument("userns_options: mode POD takes exactly one mapping of uids and one of gids")
    if wish.uids[0].container_id or wish.gids[0].container_id:
        raise InvalidArgument("userns_options: a mapping must begin with the container's id 0")
    return mounts.id_mappings(wish.uids, "userns_options.uids"), mounts.id_mappings(wish.gids, "userns_options.gids")


def _check_user_namespace(options: api.NamespaceOption, sandbox: SandboxConfig) -> None:
    """All containers of a pod are in its user namespace, whether they say so or not; none may ask for another."""
    if options.HasField("userns_options") and user_namespace(options) != (sandbox.uid_mappings, sandbox.gid_mappings):
        raise InvalidArgument("userns_options: not what the sandbox was made with, which holds for all its containers")


def _pid_mode(options: api.NamespaceOption, sandbox: SandboxConfig) -> Mode:
    """Whose pid namespace: POD, which is also what an absent message says, is what the sandbox has."""
    mode = MODES[options.pid]
    if mode == "target" and not options.target_id:
        raise InvalidArgument("namespace_options: pid TARGET needs target_id")
    if mode == "pod" and sandbox.namespaces.pid in ("node", "container"):
        return sandbox.namespaces.pid
    return mode


def _namespaces(sandbox: SandboxConfig, pid_mode: Mode, *, privileged: bool) -> list[schema.Namespace]:
    """The namespaces that are not the host's; the runtime gives a path to those that are shared.

    With the host's network goes the host's name (uts).  A privileged container sees the host's
    cgroups, to manage them.
    """
    wanted = ["mount"]
    if sandbox.namespaces.network != "node":
        wanted += ["network", "uts"]
    if sandbox.namespaces.ipc != "node":
        wanted.append("ipc")
    if pid_mode != "node":
        wanted.append("pid")
    if not privileged:
        wanted.append("cgroup")
    return [schema.Namespace(type=kind) for kind in wanted]


def _log_path(directory: str, path: str) -> str:
    """Where the log goes; empty, for no log, unless both parts are given."""
    if not directory or not path:
        return ""
    if ".." in path.split("/"):
        raise InvalidArgument(f"log_path: {path!r} leads out of the pod's log directory")
    whole = f"{directory.rstrip('/')}/{path.lstrip('/')}"
    longest = max(len(part.encode()) for part in whole.split("/"))
    if "\0" in whole or len(whole.encode()) > MAX_PATH or longest > MAX_NAME:
        raise InvalidArgument(f"log_path: {path[:80]!r} is no path: it holds a NUL, or is too long")
    return whole


def _stop_signal(config: api.ContainerConfig, image: ImageConfig) -> int:
    """The request's signal, else the image's, else SIGTERM."""
    asked = signals.from_api(config.stop_signal)
    if asked is not None:
        return asked
    return signals.parse_signal(image.stop_signal) if image.stop_signal else int(signal.SIGTERM)


def _cdi_devices(config: api.ContainerConfig) -> list[str]:
    """The CDI devices of the request, by the field, and by annotations, which older device plugins use; some use both."""
    annotated = [config.annotations[key] for key in sorted(config.annotations) if key.startswith(CDI_ANNOTATIONS)]
    names = [*(device.name for device in config.CDI_devices), *(name for value in annotated for name in value.split(","))]
    return list(dict.fromkeys(names))


def _annotations(config: api.ContainerConfig, sandbox: SandboxConfig) -> dict[str, str]:
    """The request's own, and under containerd's names what hooks want to know about the container."""
    prefix = "io.kubernetes.cri."
    return {
        **config.annotations,
        f"{prefix}container-type": "container",
        f"{prefix}container-name": config.metadata.name,
        f"{prefix}image-name": config.image.user_specified_image or config.image.image,
        f"{prefix}sandbox-name": sandbox.name,
        f"{prefix}sandbox-namespace": sandbox.namespace,
        f"{prefix}sandbox-uid": sandbox.uid,
    }
