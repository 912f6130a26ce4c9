"""Plugins in their order, and which of them a request meets.

Most plugins are about one resource, and most requests about another: what a plugin says of itself is asked once for all
requests that look alike, and not each time.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Final, TypeVar

from rayplane.control_plane.apiserver.admission.request import AdmissionRequest

Plugin = Callable[[AdmissionRequest], Awaitable[None]]
Concerns = Callable[[AdmissionRequest], bool]
"""Whether a plugin has anything to do: by the operation, resource and subresource of a request, and nothing else."""

#: Kinds of requests whose plugins are remembered: more of them are asked anew.
REMEMBERED_MAX: Final = 4096
_CONCERNS = "concerns"


_F = TypeVar("_F", bound=Callable[..., Awaitable[None]])


def only(concerns: Concerns) -> Callable[[_F], _F]:
    """A decorator of plugins (or their methods) that are run for no other requests: `Plugins` sees to it."""

    def decorate(plugin: _F) -> _F:
        setattr(plugin, _CONCERNS, concerns)
        return plugin

    return decorate


def creation_of(*resources: str) -> Concerns:
    """New objects of these resources."""
    return lambda request: any(request.creates(one) for one in resources)


def writing_of(*resources: str) -> Concerns:
    """New objects of these resources, and changes of the objects themselves."""
    return lambda request: any(request.creates(one) or request.updates(one) for one in resources)


class Plugins:
    """Plugins in the order in which they are run."""

    def __init__(self, plugins: Iterable[Plugin] = ()) -> None:
        self._all = tuple(plugins)
        self._met: dict[tuple[str, str, bool, str], tuple[Plugin, ...]] = {}

    def of(self, request: AdmissionRequest) -> tuple[Plugin, ...]:
        """Those that a request meets."""
        info = request.info
        key = request.operation, info.name, info.namespaced, request.subresource
        found = self._met.get(key)
        if found is None:
            found = tuple(self._concerned(request))
            if len(self._met) >= REMEMBERED_MAX:
                self._met.clear()
            self._met[key] = found
        return found

    def _concerned(self, request: AdmissionRequest) -> Iterator[Plugin]:
        for plugin in self._all:
            concerns: Concerns | None = getattr(plugin, _CONCERNS, None)
            if concerns is None or concerns(request):
                yield plugin
