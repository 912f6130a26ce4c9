"""The scheduler: gives every pending pod a node: filter, score, bind; preempts where it must.

Owns: a pure core and a thin shell. The core is `pods` and `nodes` (what matters of the API's objects), `snapshot`
(nodes as NumPy arrays, changed in O(1) per pod; `topology`: their labels, `counters`: pods by what selectors say of
them), `volumes`, `devices` (`allocation`: which of them a claim gets), `owners`, `budgets` and `groups` (other
objects), `plugins` (filters and scores, a table by name), `shapes` (what these say of pods that are alike), `cycle`
(one decision after the other, `explain`), `gangs` (pods of a pod group together), `preemption`, `queue` (active,
backing off, unschedulable, gated), `events` and `hints` (what wakes whom), `gates`, `report` (messages), and
`configuration` (files that say all this), `decisions` (a bounded record). The shell is `service` (leadership), `term`
(the loop of one term), `observer` (informers), `binder` (writes), `preparation` (devices are made ready; `waits`),
`explaining` (gRPC), `extensions` and `extended` (HTTP extenders, asked by `extender_client`).

HTTP extenders: `extenders` says what they are told and what their answers mean. A pod in which one has a say is decided
beside the loop, so that no other pod waits for the answer.

Plug-ins in Python that other packages bring: `framework` says what they are, `adapters` ask them as the cycle asks its
own, `extensions` has all else of them; `plugin_watch` measures them, `plugin_threads` runs what may take long.

Does not own: the objects' truth (API servers), provisioning of volumes, evicting from lost nodes, starting pods.

Concurrency: one asyncio loop; no threads but those of plug-ins. A cycle takes a batch of pods from the queue and
decides them without awaiting; each placement is assumed in the snapshot at once, so the next decision sees it. Writes
go out in batches while further cycles run; a failed write takes the assumption back. Only the holder of the Lease
`kube-scheduler` schedules, and a binding of one that lost it without noticing is refused, for the pod has a node by
then.

Profiles (`spec.schedulerName`; `config.Profile`): each lists by name the plug-ins that filter, in order, and those that
score, with weights, and has their arguments; unless told otherwise Kubernetes' default ones. `Cycle` takes the table of
plug-ins to find the names in (`plugins.IN_TREE`, or one with more). Without a file there are two: `default-scheduler`
packs bins (most allocated), `spread-scheduler` takes the node with the least percentage of use. Ties go to the node
whose name sorts first: the same history gives the same placements.
"""

from rayplane.control_plane.scheduler.config import Profile, SchedulerConfig
from rayplane.control_plane.scheduler.cycle import Cycle, Explanation, Failure, Placement
from rayplane.control_plane.scheduler.plugins import Cluster, Plugin
from rayplane.control_plane.scheduler.plugins.args import Strategy
from rayplane.control_plane.scheduler.service import Scheduler
from rayplane.control_plane.scheduler.snapshot import Snapshot

__all__ = [
    "Cluster",
    "Cycle",
    "Explanation",
    "Failure",
    "Placement",
    "Plugin",
    "Profile",
    "Scheduler",
    "SchedulerConfig",
    "Snapshot",
    "Strategy",
]
