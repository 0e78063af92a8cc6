"""A joined list is the list's own encoding, and an entry is made anew only for a new record."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cri import encoded
from cri.api import api_pb2 as api


@given(st.lists(st.text(max_size=300)))
def test_elements_one_after_the_other_are_the_list(names: list[str]) -> None:
    items = [api.PodSandbox(id=name) for name in names]
    joined = b"".join(encoded.element(api.ListPodSandboxResponse.ITEMS_FIELD_NUMBER, item) for item in items)
    assert joined == api.ListPodSandboxResponse(items=items).SerializeToString()


def test_a_field_number_of_two_bytes() -> None:
    # 20 << 3 | 2 does not fit seven bits
    joined = encoded.element(20, api.PodSandbox(id="abc"))
    assert api.ImageSpec.FromString(joined).image_ref == "\n\x03abc"


def test_only_a_new_record_is_encoded_anew() -> None:
    made: list[str] = []

    def make(record: tuple[str]) -> api.PodSandbox:
        made.append(record[0])
        return api.PodSandbox(id=record[0])

    cache: encoded.Cache[tuple[str], api.PodSandbox] = encoded.Cache(1, make)
    one, two, other = ("one",), ("two",), ("other",)
    assert [entry.message.id for entry in cache.entries([("1", one), ("2", two)])] == ["one", "two"]
    assert [entry.message.id for entry in cache.entries([("1", one), ("2", other)])] == ["one", "other"]
    assert [entry.message.id for entry in cache.entries([("2", other)])] == ["other"]
    assert made == ["one", "two", "other"]
    # what was gone is made anew when it comes back
    cache.entries([("1", one)])
    assert made[-1] == "one"
