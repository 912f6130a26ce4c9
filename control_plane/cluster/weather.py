"""The weather of a cluster: faults of network, clocks and disks that began and have not ended. Pure.

The supervisor is told all of it each time.
"""

from collections.abc import Sequence
from dataclasses import replace

from rayplane.control_plane.faults.vocabulary import (
    ClockJump,
    Cut,
    ExpireCertificate,
    Fault,
    FullDisk,
    Heal,
    Partition,
    Reset,
    SlowDisk,
    SlowNetwork,
    StalledDisk,
    Target,
)
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb

Weather = tuple[Fault, ...]
"""Faults of machines name the actor that each has hit."""
OF_NETWORK = (Partition, Cut, Heal, Reset, SlowNetwork)
OF_MACHINES = (ClockJump, SlowDisk, StalledDisk, FullDisk, ExpireCertificate)
OfMachines = ClockJump | SlowDisk | StalledDisk | FullDisk | ExpireCertificate


def after(weather: Weather, fault: Fault, hit: Sequence[str]) -> Weather:
    """The weather once a fault has begun."""
    match fault:
        case Partition() | Cut():
            return (*weather, fault)
        case SlowNetwork(delay_s):
            return (*weather, fault) if delay_s else tuple(f for f in weather if not isinstance(f, SlowNetwork))
        case Heal():
            return tuple(f for f in weather if not isinstance(f, Partition | Cut))
        case ClockJump() | SlowDisk() | StalledDisk() | FullDisk() | ExpireCertificate():
            return (*weather, *_of_each(fault, hit))
    return weather


def without(weather: Weather, fault: Fault, hit: Sequence[str]) -> Weather:
    """The weather once a fault is over; others that are like it go on."""
    left = [*weather]
    for one in _of_each(fault, hit) if isinstance(fault, OF_MACHINES) else (fault,):
        if one in left:
            left.remove(one)
    return tuple(left)


def _of_each(fault: OfMachines, hit: Sequence[str]) -> list[Fault]:
    return [replace(fault, target=Target(name=name)) for name in hit]


def told_of(
    weather: Weather, reset: Sequence[str] = (), *, standing: bool = False, holds_s: float = 0.0
) -> pb.DisturbRequest:
    """Two actors reach each other when every partition leaves them on one side, and no cut is between them.

    `reset`: whose connections break now.
    """
    partitions = [fault.groups for fault in weather if isinstance(fault, Partition)]
    sides: dict[tuple[int, ...], list[str]] = {}
    for host in dict.fromkeys(host for groups in partitions for group in groups for host in group):
        side = tuple(next((n for n, group in enumerate(groups) if host in group), -1) for groups in partitions)
        sides.setdefault(side, []).append(host)
    troubles: dict[str, pb.HostTrouble] = {}
    for fault in weather:
        if isinstance(fault, OF_MACHINES):
            name = fault.target.name
            _add(troubles.setdefault(name, pb.HostTrouble(name=name)), fault)
    return pb.DisturbRequest(
        groups=[pb.HostGroup(hosts=hosts) for hosts in sides.values()],
        cuts=[pb.HostCut(sources=one.sources, sinks=one.sinks) for one in weather if isinstance(one, Cut)],
        slow_s=max((one.delay_s for one in weather if isinstance(one, SlowNetwork)), default=0.0),
        reset=reset,
        troubles=troubles.values(),
        standing=standing,
        holds_s=holds_s,
    )


def read(told: pb.DisturbRequest) -> Weather:
    """A weather of which the same would be told, but for connections that break."""
    weather: list[Fault] = [Cut(tuple(cut.sources), tuple(cut.sinks)) for cut in told.cuts]
    if told.groups:
        weather.append(Partition(tuple(tuple(group.hosts) for group in told.groups)))
    weather.append(SlowNetwork(told.slow_s))
    for one in told.troubles:
        target = Target(name=one.name)
        weather += [ClockJump(target, one.clock_ahead_s), SlowDisk(target, one.sync_least_s)]
        weather += [StalledDisk(target, 0.0)] if one.stalled else []
        weather += [FullDisk(target)] if one.full else []
        weather += [ExpireCertificate(target, one.expires_in_s)] if one.expires else []
    return tuple(weather)


def _add(trouble: pb.HostTrouble, fault: Fault) -> None:
    match fault:
        case ClockJump(_, by_s):
            trouble.clock_ahead_s += by_s
        case SlowDisk(_, delay_s):
            trouble.sync_least_s = max(trouble.sync_least_s, delay_s)
        case StalledDisk():
            trouble.stalled = True
        case FullDisk():
            trouble.full = True
        case ExpireCertificate(_, in_s):
            trouble.expires_in_s = min(in_s, trouble.expires_in_s) if trouble.expires else in_s
            trouble.expires = True
