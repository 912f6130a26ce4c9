"""A request meets the plugins that say they are about it, in their order, however often such requests come."""

from rayplane.control_plane.api.machinery.resources import ResourceInfo, builtin_registry
from rayplane.control_plane.apiserver.admission.plugins import Plugin, Plugins, creation_of, only, writing_of
from rayplane.control_plane.apiserver.admission.request import CREATE, DELETE, UPDATE, AdmissionRequest
from rayplane.control_plane.apiserver.requests import SYSTEM


def info(name: str) -> ResourceInfo:
    return builtin_registry().by_name(name)


def request(operation: str, resource: str, subresource: str = "") -> AdmissionRequest:
    return AdmissionRequest(operation, info(resource), SYSTEM, "ns", "x", {}, subresource=subresource)


@only(creation_of("pods"))
async def of_new_pods(_: AdmissionRequest) -> None:
    """One plugin."""


@only(writing_of("pods", "secrets"))
async def of_written(_: AdmissionRequest) -> None:
    """Another."""


async def of_all(_: AdmissionRequest) -> None:
    """One that says nothing of itself."""


def met(*asked: tuple[str, ...]) -> list[tuple[Plugin, ...]]:
    plugins = Plugins((of_new_pods, of_all, of_written))
    return [plugins.of(request(*one)) for one in asked]


def test_each_meets_those_that_it_concerns() -> None:
    asked = [(CREATE, "pods"), (UPDATE, "pods"), (UPDATE, "pods", "status"), (CREATE, "secrets"), (DELETE, "pods")]
    assert met(*asked) == [
        (of_new_pods, of_all, of_written),
        (of_all, of_written),
        (of_all,),
        (of_all, of_written),
        (of_all,),
    ]


def test_what_was_found_for_one_is_no_other_ones() -> None:
    asked = [(CREATE, "pods"), (CREATE, "pods", "binding"), (CREATE, "pods")]
    assert met(*asked) == [(of_new_pods, of_all, of_written), (of_all,), (of_new_pods, of_all, of_written)]


def test_resources_of_one_name_in_two_groups_are_two() -> None:
    asked = [(CREATE, "events"), (CREATE, "events.events.k8s.io"), (CREATE, "pods")]
    assert met(*asked) == [(of_all,), (of_all,), (of_new_pods, of_all, of_written)]
