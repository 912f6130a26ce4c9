"""Credentials of registries as a runtime is shown them. Pure."""

from collections.abc import Iterable

from rayplane.control_plane.api.meta import Object
from rayplane.node.images.credentials import auths_of, fitting
from rayplane.node.images.references import parse_reference
from rayplane.proto.cri import cri_pb2 as pb


def credentials_for(image: str, secrets: Iterable[Object | None]) -> list[pb.AuthConfig]:
    """What the registry of an image may be shown, the most particular first. Raises BadReference."""
    auths = [auth for secret in secrets if secret is not None for auth in auths_of(secret)]
    return [
        pb.AuthConfig(
            username=auth.user,
            password=auth.password,
            identity_token=auth.identity_token,
            registry_token=auth.registry_token,
        )
        for auth in fitting(auths, parse_reference(image))
    ]
