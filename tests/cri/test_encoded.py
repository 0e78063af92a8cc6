"""A joined list is the list's own encoding, and an entry is made anew only for a new record."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cri import encoded
from cri.api import api_pb2 as api


@given(st.lists(st.text(max_size=300)))
def test_joined_items_are_the_message(names: list[str]) -> None:
    items = [api.PodSandbox(id=name) for name in names]
    joined = encoded.join(api.ListPodSandboxResponse.ITEMS_FIELD_NUMBER, (item.SerializeToString() for item in items))
    assert api.ListPodSandboxResponse.FromString(joined) == api.ListPodSandboxResponse(items=items)


def test_a_large_field_number() -> None:
    joined = encoded.join(20, [b"abc"])
    assert api.ImageSpec.FromString(joined).image_ref == "abc"


def test_only_a_new_record_is_encoded_anew() -> None:
    made: list[str] = []

    def make(record: tuple[str]) -> api.PodSandbox:
        made.append(record[0])
        return api.PodSandbox(id=record[0])

    cache: encoded.Cache[tuple[str], api.PodSandbox] = encoded.Cache(make)
    one, two, other = ("one",), ("two",), ("other",)
    assert [entry.message.id for entry in cache.entries([("1", one), ("2", two)])] == ["one", "two"]
    assert [entry.message.id for entry in cache.entries([("1", one), ("2", other)])] == ["one", "other"]
    assert [entry.message.id for entry in cache.entries([("2", other)])] == ["other"]
    assert made == ["one", "two", "other"]
    # what was gone is made anew when it comes back
    cache.entries([("1", one)])
    assert made[-1] == "one"
