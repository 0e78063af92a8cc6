from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import ImagePullFailed
from runtime.image import manifest as m
from runtime.image.manifest import Index, Manifest, parse_manifest

DIGEST = "sha256:" + "a" * 64


def descriptor(media_type: str = m.OCI_LAYER, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": DIGEST, "size": 3, **more}


def manifest(media_type: str | None = m.OCI_MANIFEST, **more: Any) -> dict[str, Any]:
    document = {"schemaVersion": 2, "config": descriptor(m.OCI_CONFIG), "layers": [descriptor()], **more}
    return document if media_type is None else {"mediaType": media_type, **document}


def index(media_type: str | None = m.OCI_INDEX, **more: Any) -> dict[str, Any]:
    document = {"schemaVersion": 2, "manifests": [descriptor(m.OCI_MANIFEST)], **more}
    return document if media_type is None else {"mediaType": media_type, **document}


def parse(document: dict[str, Any], media_type: str | None = None) -> Index | Manifest:
    return parse_manifest(json.dumps(document).encode(), media_type)


@pytest.mark.parametrize("kind", [m.OCI_MANIFEST, m.DOCKER_MANIFEST])
def test_a_manifest_of_either_family(kind: str) -> None:
    document = parse(manifest(kind), f"{kind}; charset=utf-8")
    assert isinstance(document, Manifest)
    assert document.layers[0].digest == DIGEST


@pytest.mark.parametrize("kind", [m.OCI_INDEX, m.DOCKER_INDEX])
def test_an_index_of_either_family(kind: str) -> None:
    assert isinstance(parse(index(kind), kind), Index)


@pytest.mark.parametrize("announced", [None, "application/json", "application/octet-stream", "text/plain"])
def test_without_a_type_the_content_decides(announced: str | None) -> None:
    assert isinstance(parse(manifest(None), announced), Manifest)
    assert isinstance(parse(index(None), announced), Index)


def test_null_for_what_is_optional() -> None:
    document = parse({**manifest(), "annotations": None, "artifactType": None})
    assert isinstance(document, Manifest)
    assert isinstance(parse({**index(), "manifests": None}), Index)


@pytest.mark.parametrize(
    ("document", "media_type", "why"),
    [
        (manifest(manifests=[]), None, "ambiguous"),
        (index(layers=[]), None, "ambiguous"),
        (index(config=descriptor()), m.OCI_INDEX, "ambiguous"),
        (manifest(m.OCI_MANIFEST), m.DOCKER_MANIFEST, "mediaType says"),
        (index(m.OCI_INDEX), m.OCI_MANIFEST, "mediaType says"),
        (manifest(None), m.OCI_INDEX, "other kind"),
        (index(m.OCI_MANIFEST), None, "other kind"),
        ({"schemaVersion": 1, "fsLayers": []}, None, "schema 1"),
        (manifest(None), "application/vnd.docker.distribution.manifest.v1+prettyjws", "schema 1"),
        (manifest("application/vnd.example+json"), None, "neither"),
        (manifest(schemaVersion=3), None, "schemaVersion 3"),
        (manifest(schemaVersion="2"), None, "schemaVersion"),
        (manifest(layers=[descriptor()] * 501), None, "501 layers"),
        (manifest(layers=[descriptor(digest="sha256:../x")]), None, "only sha256"),
        (manifest(layers=[descriptor(size=-1)]), None, "size -1"),
        (manifest(config=None), None, "config"),
        (manifest(layers=None), None, "layers"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(document: dict[str, Any], media_type: str | None, why: str) -> None:
    with pytest.raises(ImagePullFailed, match=why):
        parse(document, media_type)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'{"schemaVersion": 2, "schemaVersion": 2}', "'schemaVersion' is there twice"),
        (b'{"schemaVersion": 2, "config": {"size": 1, "size": 2}}', "'size' is there twice"),
        (b"[" * 100_000, "nested too deeply|not valid JSON"),
        (b"[]", "not a JSON object"),
        (b"\xff", "not valid JSON"),
        (b'{"schemaVersion": NaN}', "NaN is not JSON"),
        (b"", "not valid JSON"),
        (b'{"a": "\\uD800"}', "half a surrogate pair"),
        (b'{"a": ' + b"1" * 5000 + b"}", "not valid JSON"),
        (b" " * (m.MANIFEST_LIMIT + 1), "more than 4194304"),
    ],
)
def test_what_is_no_document_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(ImagePullFailed, match=why):
        parse_manifest(content, None)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_keys = ["schemaVersion", "mediaType", "config", "layers", "manifests", "digest", "size", "fsLayers", "data"]


@given(st.dictionaries(st.sampled_from(_keys), _json | st.sampled_from([2, m.OCI_INDEX, m.OCI_MANIFEST])), st.none() | st.text())
def test_any_document_is_understood_or_refused(document: dict[str, Any], media_type: str | None) -> None:
    with contextlib.suppress(ImagePullFailed):
        assert isinstance(parse({"schemaVersion": 2} | document, media_type), Index | Manifest)


@given(st.binary(max_size=200))
def test_any_bytes_are_understood_or_refused(content: bytes) -> None:
    with pytest.raises(ImagePullFailed):
        parse_manifest(content, None)


def test_embedded_content_is_base64_or_nothing() -> None:
    document = parse(manifest(config=descriptor(m.OCI_CONFIG, data="e30=")))
    assert isinstance(document, Manifest)
    assert document.config.embedded() == b"{}"
    document = parse(manifest(config=descriptor(m.OCI_CONFIG, data="*")))
    assert isinstance(document, Manifest)
    assert document.config.embedded() is None
