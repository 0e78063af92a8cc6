"""Images over a real socket: one message per image, absence is an answer, a pull can be given up."""

from __future__ import annotations

import base64
from typing import Any

import grpc
import pytest

from cri.api import api_pb2 as api
from cri.images import credentials_of, message_of
from runtime.errors import InvalidArgument
from runtime.image.auth import Credentials
from tests.cri.conftest import Daemon
from tests.cri.fake import NAME, image


def status(daemon: Daemon, name: str) -> api.ImageStatusResponse:
    request = api.ImageStatusRequest(image=api.ImageSpec(image=name), verbose=True)
    return daemon.client.call(request, api.ImageStatusResponse)


def listed(daemon: Daemon, name: str = "") -> list[api.Image]:
    request = api.ListImagesRequest(filter=api.ImageFilter(image=api.ImageSpec(image=name)))
    return list(daemon.client.call(request, api.ListImagesResponse).images)


def pull(daemon: Daemon, name: str, timeout_seconds: float | None = None, **auth: str) -> str:
    request = api.PullImageRequest(image=api.ImageSpec(image=name), auth=api.AuthConfig(**auth))
    return daemon.client.call(request, api.PullImageResponse, timeout_seconds).image_ref


def test_an_image_is_the_same_message_by_every_name(daemon: Daemon) -> None:
    [item] = listed(daemon)
    for name in (NAME, "web:1", "web", image().id):
        found = status(daemon, name)
        assert found.image.SerializeToString() == item.SerializeToString()
        assert listed(daemon, name) == [item]
    assert (item.id, list(item.repo_tags), item.size) == (image().id, [NAME], 1000)
    assert "imageSpec" in found.info["info"]


def test_an_absent_image_is_an_answer_without_one(daemon: Daemon) -> None:
    assert not status(daemon, "other").HasField("image")
    assert listed(daemon, "other") == []


@pytest.mark.parametrize(
    ("user", "uid", "username"),
    [("", None, ""), ("0", 0, ""), ("1000:5", 1000, ""), ("app", None, "app"), ("app:staff", None, "app")],
)
def test_a_user_is_a_number_or_a_name(user: str, uid: int | None, username: str) -> None:
    message = message_of(image(user=user))
    assert (message.uid.value if message.HasField("uid") else None, message.username) == (uid, username)


def test_a_size_of_zero_would_be_taken_for_a_broken_answer() -> None:
    import dataclasses

    assert message_of(dataclasses.replace(image(), size_bytes=0)).size == 1


def test_pull(daemon: Daemon) -> None:
    image_id = pull(daemon, "registry.example/app:2")
    assert status(daemon, image_id).image.repo_tags == ["registry.example/app:2"]
    assert daemon.pull.credentials is None


def test_a_failed_pull_keeps_the_words_a_kubelet_looks_for(daemon: Daemon) -> None:
    assert daemon.refused(lambda: pull(daemon, "down.example/app")) == (
        grpc.StatusCode.UNKNOWN,
        "RegistryUnavailable: pull down.example/app: connection refused",
    )


def test_a_pull_is_given_up_when_the_caller_goes_away(daemon: Daemon) -> None:
    daemon.pull.hangs = True
    code, _ = daemon.refused(lambda: pull(daemon, "slow.example/app", timeout_seconds=0.1))
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert daemon.pull.given_up.wait(5)
    assert not status(daemon, "slow.example/app").HasField("image")


def test_credentials_reach_the_pull(daemon: Daemon) -> None:
    pull(daemon, "registry.example/app", username="u", password="p", server_address="https://registry.example")
    assert daemon.pull.credentials == Credentials(username="u", password="p", server_address="https://registry.example")


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        ({}, None),
        ({"server_address": "a"}, None),
        ({"username": "u", "password": "p"}, {"username": "u", "password": "p"}),
        ({"auth": base64.b64encode(b"u:p:q").decode()}, {"username": "u", "password": "p:q"}),
        ({"auth": "!", "username": "u"}, {"username": "u"}),
        ({"identity_token": "t"}, {"identity_token": "t"}),
        ({"registry_token": "t"}, {"registry_token": "t"}),
    ],
)
def test_forms_of_credentials(auth: dict[str, str], expected: dict[str, Any] | None) -> None:
    wanted = None if expected is None else Credentials(**expected)
    assert credentials_of(api.AuthConfig(**auth)) == wanted


def test_broken_credentials_are_refused() -> None:
    for text in ("!", base64.b64encode(b"no colon").decode()):
        with pytest.raises(InvalidArgument, match="base64"):
            credentials_of(api.AuthConfig(auth=text))


def test_remove_is_idempotent(daemon: Daemon) -> None:
    request = api.RemoveImageRequest(image=api.ImageSpec(image="web"))
    for _ in range(2):
        daemon.client.call(request, api.RemoveImageResponse)
        assert listed(daemon) == []


def test_a_name_is_needed(daemon: Daemon) -> None:
    for call in (lambda: status(daemon, ""), lambda: pull(daemon, "")):
        code, message = daemon.refused(call)
        assert (code, message) == (grpc.StatusCode.INVALID_ARGUMENT, "image.image is empty")


def test_file_system(daemon: Daemon) -> None:
    answer = daemon.client.call(api.ImageFsInfoRequest(), api.ImageFsInfoResponse)
    [entry] = answer.image_filesystems
    assert (entry.used_bytes.value, entry.inodes_used.value) == (4096, 7)
    assert entry.fs_id.mountpoint == str(daemon.socket.parent) and entry.timestamp > 0
    [own] = answer.container_filesystems  # on the same file system: a kubelet tells by the directory
    assert (own.used_bytes.value, own.inodes_used.value, own.fs_id) == (8192, 9, entry.fs_id)
