"""Services that everybody may call, for tests that are about something else."""

from google.protobuf.descriptor import ServiceDescriptor

from rayplane.control_plane.rpc import EVERYONE, Service, each, methods_of


def open_service(descriptor: ServiceDescriptor, handler: object) -> Service:
    return Service(descriptor, handler, callers=each(EVERYONE, *(m.name for m in methods_of(descriptor))))
