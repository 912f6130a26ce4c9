"""A glance at the control plane as rows: its actors, or its machines. Pure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from rayplane.control_plane.cli.top.rows import Column, Row

_WIDE = ("Revision", "Data")
ACTORS = tuple(
    Column(name, wide=name in _WIDE)
    for name in (
        *("Name", "Role", "State", "Req/s", "P99", "Queued", "Term", "Index", "Behind", "Revision", "Data"),
        *("Machine", "Starts", "Failure"),
    )
)
MACHINES = tuple(Column(name) for name in ("Machine", "State", "CPUs", "Memory", "Actors", "Down", "Names"))
Glance = Mapping[str, Any]


def actor_rows(now: Glance) -> list[Row]:
    """Members, and after them all others."""
    members: Sequence[Glance] = now["members"]
    leader = next((one for one in members if one.get("leader")), None)
    loads = now.get("loads", {})
    actors = (_actor(one, loads.get(one["name"])) for one in now["actors"])
    return [*(_member(one, leader) for one in members), *actors]


def machine_rows(now: Glance) -> list[Row]:
    """Machines that have actors or may get some; one that the cluster does not name any more is gone."""
    told = {str(one["address"]): one for one in now.get("machines", ())}
    at: dict[str, list[Glance]] = defaultdict(list, {address: [] for address in told})
    for one in now["members"]:
        at[str(one["endpoint"]).rpartition(":")[0]].append(one)
    for one in now["actors"]:
        at[str(one["machine"])].append(one)
    return [_machine(address, told.get(address), all_, known=bool(told)) for address, all_ in at.items()]


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
    place = (one.get("term"), index, behind, one.get("revision"), data, machine)
    told = (one["name"], "member", state, *[""] * 3, *place, "", error)
    return _row("0", told, bad=bool(error))


def _actor(one: Glance, load: Glance | None) -> Row:
    running = {True: "runs", False: "does not run"}.get(one["running"], "unknown")
    state = f"{running}, leads" if one.get("leader") else running
    told = (one["name"], one["role"], state, *_load(load), *[""] * 5, one["machine"], one["starts"], one["reason"])
    return _row("1", told, bad=one["running"] is False)


def _load(load: Glance | None) -> tuple[str, str, str]:
    """Requests a second, and what 99 of 100 are within; keys that wait."""
    if load is None:
        return "", "", ""
    rate, slow, queues = load["requests_s"], load["p99_s"], load["queues"]
    serves = bool(load["verbs"]) and rate is not None
    within = "" if slow is None else f"<{slow * 1000:.0f}ms" if slow < 1 else f"<{slow:g}s"
    return f"{rate:.1f}" if serves else "", within, f"{sum(queues.values()):.0f}" if queues else ""


def _machine(address: str, told: Glance | None, all_: Sequence[Glance], *, known: bool) -> Row:
    down = [one for one in all_ if one["running"] is False or one.get("error")]
    names = " ".join(str(one["name"]) for one in all_)
    gone = known and told is None
    has = (told or {}).get("resources", {})
    memory = f"{has['memory'] / 2**30:.1f}Gi" if "memory" in has else ""
    state = "gone" if gone else "drained" if (told or {}).get("drained") else ""
    cpus = f"{has['CPU']:g}" if "CPU" in has else ""
    return _row("", (address, state, cpus, memory, len(all_), len(down), names), bad=bool(down) or gone)


def _row(before: str, told: Sequence[Any], *, bad: bool) -> Row:
    return Row((before, str(told[0])), tuple("" if cell is None else str(cell) for cell in told), "", bad)
