"""Deeds that take more than a yes: edit, scale, restart, forward a port. Each asks its way through a `Desk`.

They raise what the source raises.
"""

from typing import Protocol

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError, Conflict
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.meta import Object, format_time
from rayplane.control_plane.cli.top import editing
from rayplane.control_plane.cli.top.forwards import parse_ports
from rayplane.control_plane.cli.top.rows import Key
from rayplane.control_plane.cli.top.source import Source
from rayplane.control_plane.cluster.errors import ClusterError, UsageError

RESTARTED = ("deployments", "statefulsets", "daemonsets")
_RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"


class Desk(Protocol):
    """A person who is asked."""

    async def yes(self, question: str, details: str = "") -> bool: ...

    async def typed(self, asked: str) -> str | None:
        """What somebody types; None for those who think better of it."""

    def edited(self, text: str) -> str:
        """What an editor makes of a text."""

    def told(self, text: str) -> None: ...


async def edit(source: Source, desk: Desk, info: ResourceInfo, key: Key) -> None:
    """Have the object edited, checked by the server, looked at as a difference, and written.

    What others wrote meanwhile is not undone unseen: where it could be, what was edited is put on top of the object as
    it is now, and shown again.
    """
    before = meta.strip_managed(await source.get(info, key))
    was = text = editing.text_of(before)
    while (text := desk.edited(text)) != was:
        patch: Object = {}
        try:
            patch = editing.patch_between(before, editing.read(text, before))
            checked = await source.patch(info, key, patch, dry_run=True)
            difference = editing.difference(before, checked)
            if not difference:
                break
            if await desk.yes(f"Change {info.singular} {key[-1]} so?", difference):
                await source.patch(info, key, patch)
                desk.told(f"{info.singular} {key[-1]} edited")
            return
        except (ApiError, ClusterError) as e:
            changed = "It was changed meanwhile: " if isinstance(e, Conflict) else ""
            if not await desk.yes(f"{changed}{getattr(e, 'message', '') or e}\n\nEdit it again?"):
                return
            was = ""  # what is refused may be given up by a no alone
            if changed:
                before = meta.strip_managed(await source.get(info, key))
                text = editing.text_of(editing.rebased(patch, before))
    desk.told("nothing was changed")


async def scale(source: Source, desk: Desk, info: ResourceInfo, key: Key) -> None:
    """Set how many replicas it has."""
    if "scale" not in info.subresources and not info.custom:
        raise UsageError(f"{info.plural} have no replicas to scale")
    now = meta.spec(await source.get(info, key)).get("replicas", 0)
    text = await desk.typed(f"replicas of {info.singular} {key[-1]}, now {now}")
    if text is None:
        return
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"{text!r} is no number of replicas: give 0 or more")
    await source.patch(info, key, {"spec": {"replicas": int(text)}}, subresource="scale")
    desk.told(f"{info.singular} {key[-1]} scaled to {text}")


async def restart(source: Source, desk: Desk, info: ResourceInfo, key: Key) -> None:
    """Replace its pods, as its strategy says, by writing when in their template: `kubectl rollout restart`."""
    if info.name.partition(".")[0] not in RESTARTED:
        raise UsageError(f"{info.plural} have no rollout to restart; {', '.join(RESTARTED)} have")
    if await desk.yes(f"Restart {info.singular} {key[-1]}? Its pods are replaced as its strategy says."):
        template: Object = {"metadata": {"annotations": {_RESTARTED_AT: format_time(source.now())}}}
        await source.patch(info, key, {"spec": {"template": template}})
        desk.told(f"{info.singular} {key[-1]} restarted")


async def forward(source: Source, desk: Desk, pod: Object) -> None:
    """Let a port of this machine lead to one of a pod."""
    name = meta.name(pod)
    containers = meta.spec(pod).get("containers") or ()
    ports = [port["containerPort"] for one in containers for port in one.get("ports") or ()]
    usual = f":{ports[0]}" if ports else ""
    hint = f"; nothing typed is {usual}" if usual else ""
    text = await desk.typed(f"port of pod {name}: PORT, HERE:PORT or :PORT for any here{hint}")
    if text is not None:
        here, there = parse_ports(text or usual)
        address = await source.forwards.open((meta.namespace(pod), name), here, there)
        desk.told(f"{address} leads to port {there} of pod {name}; :pf shows such ports, ctrl+d there ends one")
