"""The wire contract: v1.json and the descriptors that protoc made say the same, in both directions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from cri.api import api_pb2 as api

CONTRACT: dict[str, Any] = json.loads((Path(__file__).parent / "v1.json").read_text())
SCALARS = {
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_DOUBLE: "double",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_UINT64: "uint64",
}


def bare_name(descriptor: Descriptor | EnumDescriptor) -> str:
    """The name inside the package: ``SecurityProfile.ProfileType``."""
    return str(descriptor.full_name).removeprefix(CONTRACT["package"] + ".")


def is_map(descriptor: Descriptor | None) -> bool:
    return descriptor is not None and bool(descriptor.GetOptions().map_entry)


def spell(field: FieldDescriptor) -> str:
    """The field's type as the contract writes it, label and map included."""
    if is_map(field.message_type):
        key, value = (spell(field.message_type.fields_by_name[name]) for name in ("key", "value"))
        return f"map<{key}, {value}>"
    named = field.message_type or field.enum_type
    return ("repeated " if field.is_repeated else "") + (bare_name(named) if named else SCALARS[field.type])


def messages() -> Iterator[Descriptor]:
    """Every message of the file, nested ones too; map entries are not messages of the contract."""
    waiting = list(api.DESCRIPTOR.message_types_by_name.values())
    while waiting:
        descriptor = waiting.pop()
        waiting.extend(descriptor.nested_types)
        if not is_map(descriptor):
            yield descriptor


def enums() -> Iterator[EnumDescriptor]:
    yield from api.DESCRIPTOR.enum_types_by_name.values()
    for message in messages():
        yield from message.enum_types


def test_package_and_syntax() -> None:
    assert api.DESCRIPTOR.package == CONTRACT["package"]
    # proto3 leaves a scalar that is not asked for without presence; proto2 would give it one.
    assert not api.VersionRequest.DESCRIPTOR.fields_by_name["version"].has_presence


def test_messages_are_those_of_the_contract() -> None:
    ours = {
        bare_name(message): sorted((field.number, field.name, spell(field)) for field in message.fields) for message in messages()
    }
    contract = {
        name: sorted((field["number"], field["name"], field["type"]) for field in fields)
        for name, fields in CONTRACT["messages"].items()
    }
    assert ours == contract


def test_no_field_is_in_a_oneof_and_deprecation_agrees() -> None:
    oneofs = {(message.name, oneof.name) for message in messages() for oneof in message.oneofs}
    in_contract = {
        (name, field["oneof"]) for name, fields in CONTRACT["messages"].items() for field in fields if "oneof" in field
    }
    assert oneofs == in_contract
    deprecated = {(m.name, f.name) for m in messages() for f in m.fields if f.GetOptions().deprecated}
    assert deprecated == {(n, f["name"]) for n, fields in CONTRACT["messages"].items() for f in fields if f.get("deprecated")}


def test_enums_are_those_of_the_contract() -> None:
    ours = {bare_name(enum): {value.name: value.number for value in enum.values} for enum in enums()}
    assert ours == CONTRACT["enums"]


def test_services_are_those_of_the_contract() -> None:
    ours = {
        service.name: {
            method.name: (
                bare_name(method.input_type),
                bare_name(method.output_type),
                method.client_streaming,
                method.server_streaming,
            )
            for method in service.methods
        }
        for service in api.DESCRIPTOR.services_by_name.values()
    }
    contract = {
        name: {rpc["rpc"]: (rpc["request"], rpc["response"], False, rpc.get("stream", False)) for rpc in rpcs}
        for name, rpcs in CONTRACT["services"].items()
    }
    assert ours == contract


def test_secrets_are_redacted_when_a_message_is_printed() -> None:
    redacted = {field.name for field in api.AuthConfig.DESCRIPTOR.fields if field.GetOptions().debug_redact}
    assert redacted == {"password", "auth", "identity_token", "registry_token"}


def test_environment_values_may_be_any_bytes() -> None:
    encoded = api.KeyValue(key="A", value=b"\xff\xfe").SerializeToString()
    assert api.KeyValue.FromString(encoded).value == b"\xff\xfe"
