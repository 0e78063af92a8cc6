"""PullImage, ListImages, ImageStatus, RemoveImage, ImageFsInfo."""

from __future__ import annotations

import builtins
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from cri import encoded
from cri.api import api_pb2 as api
from cri.node import Images, Puller
from runtime.errors import InvalidArgument
from runtime.image.auth import Credentials, decode_auth
from runtime.image.records import Image, Usage


class ImageRpcs:
    def __init__(self, images: Images, pull: Puller, directory: Path, layers: Callable[[], Usage]) -> None:
        """*directory* is one on the file system that holds the images, and what *layers* counts: containers' own files."""
        self._images = images
        self._layers = layers
        self._pull = pull
        self._directory = directory

    def pull(self, request: api.PullImageRequest, cancelled: threading.Event) -> api.PullImageResponse:
        """Bring an image here; it is listed when this returns.  Its id is the answer."""
        image = self._pull(_name(request.image), credentials_of(request.auth), cancelled)
        return api.PullImageResponse(image_ref=image.id)

    def list(self, request: api.ListImagesRequest | api.StreamImagesRequest) -> builtins.list[bytes]:
        """One element of the answer per id, however many names it has."""
        name = request.filter.image.image
        found = self._images.list() if not name else [image for image in [self._images.find(name)] if image]
        return [encoded.element(api.ListImagesResponse.IMAGES_FIELD_NUMBER, message_of(image)) for image in found]

    def status(self, request: api.ImageStatusRequest) -> api.ImageStatusResponse:
        """One image; an image that is not here is an answer without one, not an error."""
        image = self._images.find(_name(request.image))
        if image is None:
            return api.ImageStatusResponse()
        response = api.ImageStatusResponse(image=message_of(image))
        if request.verbose:
            response.info["info"] = msgspec.json.encode({"imageSpec": msgspec.to_builtins(image.config)}).decode()
        return response

    def remove(self, request: api.RemoveImageRequest) -> api.RemoveImageResponse:
        """Remove the whole image by any of its names; idempotent."""
        self._images.remove(_name(request.image))
        return api.RemoveImageResponse()

    def file_system(self, _request: api.ImageFsInfoRequest) -> api.ImageFsInfoResponse:
        """What images take, and what containers wrote; a kubelet measures the file system itself, at the directory named."""
        return api.ImageFsInfoResponse(
            image_filesystems=[self._entry(self._images.usage())], container_filesystems=[self._entry(self._layers())]
        )

    def _entry(self, usage: Usage) -> api.FilesystemUsage:
        return api.FilesystemUsage(
            timestamp=time.time_ns(),
            fs_id=api.FilesystemIdentifier(mountpoint=str(self._directory)),
            used_bytes=api.UInt64Value(value=usage.bytes),
            inodes_used=api.UInt64Value(value=usage.inodes),
        )


def message_of(image: Image) -> api.Image:
    """One message per image, the same bytes by whatever name it was asked for.

    A user that is a number is ``uid``, one that is a name ``username``: runAsNonRoot needs to know.
    """
    uid = image.config.uid
    return api.Image(
        id=image.id,
        repo_tags=image.repo_tags,
        repo_digests=image.repo_digests,
        # Clients take zero for a broken answer.
        size=max(image.size_bytes, 1),
        uid=None if uid is None else api.Int64Value(value=uid),
        username=image.config.username,
    )


def credentials_of(auth: api.AuthConfig) -> Credentials | None:
    """The request's credentials in any of their forms; None when there are none.

    Those that name another server are passed on as they are: only the pull knows the image's.
    """
    username, password = auth.username, auth.password
    if auth.auth and not (username or password):
        username, password = decode_auth(auth.auth)
    if not (username or password or auth.identity_token or auth.registry_token):
        return None
    return Credentials(
        username=username,
        password=password,
        identity_token=auth.identity_token,
        registry_token=auth.registry_token,
        server_address=auth.server_address,
    )


def _name(spec: api.ImageSpec) -> str:
    if not spec.image:
        raise InvalidArgument("image.image is empty")
    return spec.image
