"""The CRI's messages: ``from cri.api import api_pb2 as api``, and then ``api.RunPodSandboxRequest``.

``api.proto`` is ours to edit; the two ``api_pb2`` files are what protoc makes of it and are never
edited by hand.  To make them anew, at the top of the source tree:

    python3 -m venv /tmp/protoc && /tmp/protoc/bin/pip install grpcio-tools==1.76.0
    /tmp/protoc/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. cri/api/api.proto

1.76.0 is the oldest supported generator: protobuf refuses messages that are newer than itself, and
reads older ones.  There is no ``_pb2_grpc``: ``cri/server.py`` reads the services off the descriptor.
"""
