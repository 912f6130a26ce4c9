"""A glance at the control plane as rows: its actors, or its machines. Pure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from rayplane.control_plane.cli.top.rows import Column, Row

ACTORS = tuple(
    Column(name)
    for name in ("Name", "Role", "State", "Term", "Index", "Behind", "Revision", "Data", "Machine", "Starts", "Failure")
)
MACHINES = tuple(Column(name) for name in ("Machine", "Actors", "Down", "Names"))
Glance = Mapping[str, Any]


def actor_rows(now: Glance) -> list[Row]:
    """Members, and after them all others."""
    members: Sequence[Glance] = now["members"]
    leader = next((one for one in members if one.get("leader")), None)
    return [*(_member(one, leader) for one in members), *(_actor(one) for one in now["actors"])]


def machine_rows(now: Glance) -> list[Row]:
    at: dict[str, list[Glance]] = defaultdict(list)
    for one in now["members"]:
        at[str(one["endpoint"]).rpartition(":")[0]].append(one)
    for one in now["actors"]:
        at[str(one["machine"])].append(one)
    return [_machine(address, all_) for address, all_ in at.items()]


def _member(one: Glance, leader: Glance | None) -> Row:
    error = str(one.get("error", ""))
    state = (
        "does not answer"
        if error
        else "leader"
        if one is leader
        else f"follows {leader['name'] if leader else 'nobody'}"
    )
    index, last = one.get("raft_index"), (leader or {}).get("raft_index")
    behind = max(0, last - index) if index and last else None
    data = f"{one['db_bytes'] / 2**20:.1f}Mi" if one.get("db_bytes") else ""
    machine = str(one["endpoint"]).rpartition(":")[0]
    told = (one["name"], "member", state, one.get("term"), index, behind, one.get("revision"), data, machine, "", error)
    return _row("0", told, bad=bool(error))


def _actor(one: Glance) -> Row:
    running = {True: "runs", False: "does not run"}.get(one["running"], "unknown")
    state = f"{running}, leads" if one.get("leader") else running
    told = (one["name"], one["role"], state, *[""] * 5, one["machine"], one["starts"], one["reason"])
    return _row("1", told, bad=one["running"] is False)


def _machine(address: str, all_: Sequence[Glance]) -> Row:
    down = [one for one in all_ if one["running"] is False or one.get("error")]
    names = " ".join(str(one["name"]) for one in all_)
    return _row("", (address, len(all_), len(down), names), bad=bool(down))


def _row(before: str, told: Sequence[Any], *, bad: bool) -> Row:
    return Row((before, str(told[0])), tuple("" if cell is None else str(cell) for cell in told), "", bad)
