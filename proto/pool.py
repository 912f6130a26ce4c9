"""The descriptor pool that rayplane's messages are in, and no other package's.

protobuf keeps one pool per process by default and refuses a second definition of a name. etcd's and CSI's names are
fixed by their protocols, and other packages bring them too (etcd3, aetcd, CSI stubs): with a pool of our own both can
be imported, in either order. Nothing here depends on the release of protobuf that a file was generated with.
"""

from collections.abc import Mapping
from typing import Any

from google.protobuf import any_pb2, duration_pb2, message_factory, timestamp_pb2, wrappers_pb2
from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

POOL = DescriptorPool()


def add(serialized: bytes) -> FileDescriptor:
    """Define what a serialized FileDescriptorProto holds. TypeError when a name has another definition."""
    return POOL.AddSerializedFile(serialized)


def define(serialized: bytes, module: dict[str, Any]) -> FileDescriptor:
    """Define a file's messages and enumerations, and set them in `module` (its globals) as protoc's own code would."""
    file = add(serialized)
    for name, enum in file.enum_types_by_name.items():
        module[name] = EnumTypeWrapper(enum)
        module.update({v.name: v.number for v in enum.values})
    module.update(_classes(file.message_types_by_name, module["__name__"]))
    return file


def _classes(descriptors: Mapping[str, Descriptor], module: str) -> dict[str, Any]:
    found = {}
    for name, descriptor in descriptors.items():
        found[name] = message_factory.GetMessageClass(descriptor)
        found[name].__module__ = module
        for nested, inner in _classes(descriptor.nested_types_by_name, module).items():
            setattr(found[name], nested, inner)
    return found


for standard in (any_pb2, duration_pb2, timestamp_pb2, wrappers_pb2):
    add(standard.DESCRIPTOR.serialized_pb)
