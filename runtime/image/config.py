"""An image's config: what its author wants run, and the layers that its root is made of."""

from __future__ import annotations

from typing import Any

import msgspec

from runtime.errors import ImagePullFailed
from runtime.image.manifest import CONFIG_LIMIT, LAYER_LIMIT, Model, Platform, convert, load_json
from runtime.image.platform import runs_on
from runtime.image.reference import is_digest

#: Larger ids wrapped around to root in another runtime (CVE-2024-40635); the kernel's own limit is 2^32-2.
ID_LIMIT = (1 << 31) - 1


class ImageConfig(msgspec.Struct, kw_only=True, frozen=True):
    """What the config says, absent fields as their empty value."""

    architecture: str
    os: str
    variant: str | None = None
    user: str = ""
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    stop_signal: str = ""
    labels: dict[str, str] = {}
    volumes: tuple[str, ...] = ()
    exposed_ports: tuple[str, ...] = ()
    diff_ids: tuple[str, ...] = ()

    @property
    def uid(self) -> int | None:
        """The user as a number, when it is given as one."""
        name = self.user.partition(":")[0]
        return int(name) if _is_number(name) else None

    @property
    def username(self) -> str:
        """The user's name, when it is not a number; empty otherwise."""
        name = self.user.partition(":")[0]
        return "" if _is_number(name) else name


class _Run(Model, rename="pascal"):
    user: str | None = None
    env: list[str] | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    working_dir: str | None = None
    stop_signal: str | None = None
    labels: dict[str, str] | None = None
    volumes: dict[str, Any] | None = None
    exposed_ports: dict[str, Any] | None = None


class _RootFs(Model):
    type: str
    diff_ids: list[str] | None = msgspec.field(default=None, name="diff_ids")


class _Document(Model):
    architecture: str
    os: str
    rootfs: _RootFs
    variant: str | None = None
    config: _Run | None = None


def parse_config(content: bytes) -> ImageConfig:
    """The config in *content*; raises ImagePullFailed saying what is wrong."""
    if len(content) > CONFIG_LIMIT:
        raise ImagePullFailed(f"image config: {len(content)} bytes, more than {CONFIG_LIMIT}")
    document = convert(load_json(content, "image config"), _Document, "image config")
    diff_ids = document.rootfs.diff_ids or []
    if document.rootfs.type != "layers":
        raise ImagePullFailed(f"image config: rootfs.type is {document.rootfs.type!r}, want 'layers'")
    if len(diff_ids) > LAYER_LIMIT:
        raise ImagePullFailed(f"image config: {len(diff_ids)} layers, an overlay takes {LAYER_LIMIT}")
    for diff_id in diff_ids:
        if not is_digest(diff_id):
            raise ImagePullFailed(f"image config: diff id {diff_id[:100]!r}: only sha256 can be verified")
    run = document.config or _Run()
    _check_user(run.user or "")
    return ImageConfig(
        architecture=document.architecture,
        os=document.os,
        variant=document.variant or None,
        user=run.user or "",
        env=tuple(run.env or ()),
        entrypoint=tuple(run.entrypoint or ()),
        cmd=tuple(run.cmd or ()),
        working_dir=run.working_dir or "",
        stop_signal=run.stop_signal or "",
        labels=run.labels or {},
        volumes=tuple(run.volumes or ()),
        exposed_ports=tuple(run.exposed_ports or ()),
        diff_ids=tuple(diff_ids),
    )


def check_platform(config: ImageConfig, host: Platform) -> None:
    """Refuse an image for another machine now: later it is only an "exec format error"."""
    made_for = Platform(os=config.os, architecture=config.architecture, variant=config.variant)
    if not runs_on(made_for, host):
        raise ImagePullFailed(f"the image is for {made_for}, this node is {host}")


def _check_user(user: str) -> None:
    for part in user.split(":", 1):
        if _is_number(part) and (len(part) > 20 or int(part) > ID_LIMIT):
            raise ImagePullFailed(f"image config: user {user[:100]!r}: an id is at most {ID_LIMIT}")
        if any(ord(sign) < 32 for sign in part) or part.startswith(("-", "+")):
            raise ImagePullFailed(f"image config: user {user[:100]!r} is neither a name nor a number")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
