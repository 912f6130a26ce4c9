"""Names that definitions of custom resources take: judged, and taken in the transaction that stores the definition.

Two servers may judge two definitions that want one name in one instant, neither knowing of the other. Whoever takes
names therefore writes one key with it, and is stored only if that key was not written since what the judging server
has in its cache. Who comes second is judged again, and waits. Names that are given up need no guard: whoever is judged
too strictly is judged again when the definition that is in the way changes or goes (`apiextensions.definitions`).
"""

from rayplane.control_plane.api.kinds.apiextensions.custom_resource_definition import CRDS
from rayplane.control_plane.apiserver.admission.plugins import only, writing_of
from rayplane.control_plane.apiserver.admission.request import AdmissionRequest
from rayplane.control_plane.apiserver.apiextensions import acceptance
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.storage.store import not_since, put_op
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup
from rayplane.storage.env import Env

# One for all groups: a key for each would outlive its group.
_TAKEN = "/rayplane/definitions/names"


class DefinitionNames:
    """A plugin that says of each definition which names are its own."""

    def __init__(self, kinds: Kinds, env: Env, lookup: Lookup) -> None:
        self._kinds = kinds
        self._env = env
        self._lookup = lookup

    @only(writing_of(CRDS))
    async def admit(self, request: AdmissionRequest) -> None:
        known = await self._lookup.as_of(CRDS)
        crd = request.object
        in_group = self._kinds.in_group(acceptance.group_of(crd))
        acceptance.complete(crd, self._env.timestamp(), in_group, request.old)
        if acceptance.takes_names(crd, request.old):
            request.guards.append(not_since(_TAKEN, known))
            request.effects.append(put_op(_TAKEN, crd["metadata"]["name"].encode()))
