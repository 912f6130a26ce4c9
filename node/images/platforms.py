"""Platforms that images run on here: those for Linux on this machine's architecture."""

import platform
from collections.abc import Sequence

from rayplane.node.images.errors import BadImage
from rayplane.node.images.manifests import Config, Descriptor

OS = "linux"
_NAMES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "i686": "386", "i386": "386"}


def architecture() -> str:
    """This machine's, as Go names it."""
    return _NAMES.get(platform.machine(), platform.machine())


def check_platform(config: Config) -> None:
    """Raises BadImage for an image whose programs cannot run here. One that says nothing is for any."""
    said = (config.platform[0], config.platform[1] or architecture())
    if said != (OS, architecture()):
        raise BadImage(
            f"the image is for {'/'.join(said)}, and this machine is {OS}/{architecture()}: its programs cannot run "
            f"here; pull or save it for {OS}/{architecture()}, as by `docker pull --platform`"
        )


def own(manifests: Sequence[Descriptor]) -> list[Descriptor]:
    """Those of a list that are not said to be for other machines. Raises BadImage where all are."""
    found = [one for one in manifests if one.platform is None or one.platform[:2] == (OS, architecture())]
    if manifests and not found:
        said = ", ".join("/".join(filter(None, one.platform or ())) for one in manifests)
        raise BadImage(f"no match for platform {OS}/{architecture()}: the archive has images for {said}")
    return found
