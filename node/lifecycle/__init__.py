"""The life of a pod on its node, as a pure state machine.

Owns which container runs when (init containers in order, sidecars, restart policies, crash-loop back-off, hooks), how a
pod ends (completion, failure, deadline, deletion with grace) and what its status says at any moment. Does not own
processes, timers, addresses, volumes or the API: those are effects that `node.kubelet` carries out and answers with
events. No I/O, clock or randomness: the same events with the same moments give the same effects.

Concurrency: none. One `PodMachine` is stepped by one caller.
"""

from rayplane.node.lifecycle.containers import grace_left
from rayplane.node.lifecycle.injected import injected, suspensions
from rayplane.node.lifecycle.machine import PodMachine
from rayplane.node.lifecycle.mirror import mirror
from rayplane.node.lifecycle.model import (
    DeadlineChanged,
    Effect,
    EphemeralAdded,
    Event,
    Evicted,
    Exited,
    FinalizePod,
    HoldResources,
    HookRan,
    Killed,
    Moment,
    PrepareSandbox,
    Probed,
    Record,
    Rejected,
    ResizePending,
    ResourcesHeld,
    Respecified,
    Resumed,
    RunHook,
    SandboxFailed,
    SandboxReady,
    SetTimer,
    StartContainer,
    Started,
    StartFailed,
    StartProbe,
    StopContainer,
    StopRequested,
    Suspended,
    TearDown,
    TimerFired,
    TimerKey,
    Vanished,
)
from rayplane.node.lifecycle.status import render_status

__all__ = [
    "DeadlineChanged",
    "Effect",
    "EphemeralAdded",
    "Event",
    "Evicted",
    "Exited",
    "FinalizePod",
    "HoldResources",
    "HookRan",
    "Killed",
    "Moment",
    "PodMachine",
    "PrepareSandbox",
    "Probed",
    "Record",
    "Rejected",
    "ResizePending",
    "ResourcesHeld",
    "Respecified",
    "Resumed",
    "RunHook",
    "SandboxFailed",
    "SandboxReady",
    "SetTimer",
    "StartContainer",
    "StartFailed",
    "StartProbe",
    "Started",
    "StopContainer",
    "StopRequested",
    "Suspended",
    "TearDown",
    "TimerFired",
    "TimerKey",
    "Vanished",
    "grace_left",
    "injected",
    "mirror",
    "render_status",
    "suspensions",
]
