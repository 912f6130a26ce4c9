"""Tables of a cluster's parts and ports, as `status` shows them."""

from typing import Any

from rich.table import Column, Table

from rayplane.control_plane.cli.options import console
from rayplane.control_plane.cluster.listening import Listener


def ports_table(found: list[Listener]) -> Table:
    """All of every row, however narrow the terminal is."""
    whole = [Column(name, no_wrap=True) for name in ("WHO LISTENS", "ADDRESS")]
    folded = [Column(name, overflow="fold") for name in ("SPEAKS", "WHO MAY")]
    table = Table(*whole, *folded, box=None)
    for row in found:
        table.add_row(row.owner, row.address, row.speaks, row.callers)
    return table


_RUNNING = {True: "yes", False: "no", None: "unknown"}


def print_status(found: dict[str, Any]) -> None:
    """Print what `cluster.status` found."""
    console.print(f"cluster {found['name']!r} on {found['host']}: {'healthy' if found['healthy'] else 'NOT healthy'}")
    for fault in found["faults"]:
        console.print(f"  {fault}")
    for machine in found["drained"]:
        console.print(f"  {machine} is drained, until `rayplane undrain machine {machine}`")
    members = Table("MEMBER", "ENDPOINT", "ID", "LEADER", "TERM", "REVISION", "HEALTH", "VERSION", box=None)
    for m in found["members"]:
        leader = "yes" if m.get("leader") else ""
        health = "ok" if m["healthy"] else m.get("error", "no leader")
        where = (m["name"], m["endpoint"], m.get("id", ""), leader, m.get("term", ""), m.get("revision", ""))
        members.add_row(*(str(cell) for cell in (*where, health, m.get("version", ""))))
    console.print(members)
    actors = Table("ACTOR", "MACHINE", "LEADER", "RUNNING", "VERSION", box=None)
    for a in found["actors"]:
        leader = "yes" if a["leader"] else ""
        actors.add_row(a["name"], a["machine"], leader, _RUNNING[a["running"]], a.get("version", ""))
    console.print(actors)
    for served in (a["cri"] for a in found["actors"] if a.get("cri")):
        console.print(f"CRI at {served}", soft_wrap=True)
    nodes = Table("NODE", "READY", "RUNTIME", "ISOLATION", box=None)
    for n in found["nodes"]:
        nodes.add_row(n["name"], "yes" if n["ready"] else "no", n.get("runtime") or "", n.get("isolation") or "")
    console.print(nodes)
