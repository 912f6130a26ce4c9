"""Generated names: one that is taken is no error of who asked for any."""

import random
from collections.abc import Awaitable, Callable

from rayplane.control_plane.api.errors import AlreadyExists
from rayplane.control_plane.api.kinds import strategy
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.admission import AdmissionRequest
from rayplane.control_plane.apiserver.storage.entries import Entry

_TRIES = 8

Once = Callable[[AdmissionRequest], Awaitable[Entry | None]]


async def named(
    request: AdmissionRequest, prefix: str, afresh: Callable[[], Object], once: Once, rng: random.Random
) -> Entry | None:
    """What `once` makes of a request: with a `prefix` under a generated name, and another one where that is taken.

    `afresh`: the object for a further try. AlreadyExists, and whatever `once` raises.
    """
    warned = len(request.warnings)
    for left in range((_TRIES if prefix else 1) - 1, -1, -1):
        if prefix:
            suffix = "".join(rng.choices(strategy.SUFFIX_ALPHABET, k=strategy.SUFFIX_LENGTH))
            request.object["metadata"]["name"] = strategy.generated_name(prefix, suffix)
        try:
            return await once(request)
        except AlreadyExists:
            if not left:
                raise
            request.object = afresh()
            del request.warnings[warned:]  # the next try says it again
    raise AssertionError("the last try returns or raises")
