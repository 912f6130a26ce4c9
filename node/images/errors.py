"""Errors of images: what is wrong with a name, an archive, a registry's answer, and what to do."""

from rayplane.node.errors import NodeError
from rayplane.storage.errors import Code


class ImageError(NodeError):
    """An image is refused, or cannot be had. `reason`: that of a container which waits for it."""

    reason = "ErrImagePull"


class BadReference(ImageError):
    """An image's name that is none; the message says what one looks like."""

    code = Code.INVALID_ARGUMENT
    reason = "InvalidImageName"


class BadImage(ImageError):
    """An archive, manifest or layer that breaks the rules of its format, or asks for what no image may have."""

    code = Code.INVALID_ARGUMENT


class Corrupt(ImageError):
    """Bytes that do not have the digest they are known by."""

    code = Code.DATA_LOSS


class TooLarge(ImageError):
    """More bytes or entries than an image may have, or than there is room for."""

    code = Code.RESOURCE_EXHAUSTED


class ImageNotFound(ImageError):
    """There is no image of that name in the store, or in the registry."""

    code = Code.NOT_FOUND


class ImageInUse(ImageError):
    """Containers run from the image: delete their pods first."""

    code = Code.FAILED_PRECONDITION


class NoPull(ImageError):
    """The image is not there, and its pull policy does not let it be fetched."""

    code = Code.NOT_FOUND
    reason = "ErrImageNeverPull"


class PullBackOff(ImageError):
    """A pull failed and is not tried again yet. `wait_s`: how long not."""

    code = Code.UNAVAILABLE
    reason = "ImagePullBackOff"

    def __init__(self, message: str, wait_s: float) -> None:
        super().__init__(message)
        self.wait_s = wait_s


#: Of containers that wait for their image.
IMAGE_REASONS = frozenset(one.reason for one in (ImageError, BadReference, NoPull, PullBackOff))


class StoreFailed(ImageError):
    """The store's directory cannot be read or written: see to its disk, and to its mode."""


class RegistryFailed(ImageError):
    """A registry does not answer, or not as registries do."""

    code = Code.UNAVAILABLE


class RegistryDenied(ImageError):
    """A registry wants other credentials than it was shown: check the pod's imagePullSecrets."""

    code = Code.PERMISSION_DENIED
