"""Invariants of services and budgets: endpoints are ready pods, evictions are counted before they happen."""

from collections.abc import Iterable, Iterator

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds.policy.eviction import matching_budgets, needs_no_budget, spends_nothing
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_ready
from rayplane.control_plane.invariants.history import DELETED, Change, History
from rayplane.control_plane.invariants.judge import Invariant
from rayplane.control_plane.invariants.pods import PODS

SLICES, SERVICES, BUDGETS = "endpointslices.discovery.k8s.io", "services", "poddisruptionbudgets.policy"
STALE_S = 60.0
"""How long an endpoint may be told ready after its pod is not: the controllers may die meanwhile."""


class EndpointsReady(Invariant):
    """Ready endpoints are ready pods: in the end, and meanwhile but for a while."""

    name = "endpoints are ready pods"
    settles = True
    looked = 0

    def __init__(self) -> None:
        self._told: dict[str, dict[str, None]] = {}  # uid of a pod to the slices that tell it ready
        self._wrong: dict[tuple[str, str], float] = {}  # (slice, uid) to since when, the oldest first

    def begun(self, history: History) -> Iterable[str]:
        self.__init__()  # type: ignore[misc]
        for key, one in history.items(SLICES):
            self._tells(key, _told_ready(one, history), history)
        return ()

    def changed(self, change: Change, history: History) -> Iterable[str]:
        if change.resource == SLICES:
            told = {} if change.kind == DELETED else _told_ready(change.object, history)
            if change.old is not None:
                # What it says again has been wrong since before.
                self._forget(change.key, [uid for uid, _ in _ready_endpoints(change.old) if uid not in told])
            self._tells(change.key, told, history)
        elif change.resource == PODS:
            uid = meta.uid(change.object)
            for key in self._told.get(uid, ()):
                self._mark(key, uid, change.kind != DELETED and pod_is_ready(change.object), history.time_s)
        return self._overdue(history, STALE_S)

    def finished(self, history: History) -> Iterable[str]:
        return self._overdue(history, 0.0)

    def _tells(self, key: str, ready_pods: dict[str, str], history: History) -> None:
        for uid, pod in ready_pods.items():
            self.looked += 1
            self._told.setdefault(uid, {})[key] = None
            found = history.get(PODS, pod)
            ready = found is not None and meta.uid(found) == uid and pod_is_ready(found)
            self._mark(key, uid, ready, history.time_s)

    def _forget(self, key: str, uids: Iterable[str]) -> None:
        for uid in uids:
            self._wrong.pop((key, uid), None)
            slices = self._told.get(uid, {})
            slices.pop(key, None)
            if not slices:
                self._told.pop(uid, None)

    def _mark(self, key: str, uid: str, ready: bool, now_s: float) -> None:
        if ready:
            self._wrong.pop((key, uid), None)
        else:
            self._wrong.setdefault((key, uid), now_s)

    def _overdue(self, history: History, after_s: float) -> Iterator[str]:
        for (key, uid), since_s in self._wrong.items():
            if history.time_s - since_s < after_s:
                break
            one = history.get(SLICES, key)
            pod = next((pod for found, pod in _ready_endpoints(one or {}) if found == uid), uid)
            yield f"slice {key} tells pod {pod} ready, which it is not since {since_s:.1f} s"


def _ready_endpoints(one: Object) -> Iterator[tuple[str, str]]:
    """Uid and key of the pods that a slice tells ready; without a word on it they are."""
    for endpoint in one.get("endpoints") or ():
        target = endpoint.get("targetRef") or {}
        if target.get("kind") == "Pod" and (endpoint.get("conditions") or {}).get("ready") is not False:
            yield target.get("uid") or "", f"{target.get('namespace')}/{target.get('name')}"


def _told_ready(one: Object, history: History) -> dict[str, str]:
    """Pods that a slice tells to be ready: uid to key; none where its service wants others told too."""
    return {} if _tells_unready(one, history) else dict(_ready_endpoints(one))


def _tells_unready(one: Object, history: History) -> bool:
    """Whether the slice's service wants its pods told whether they are ready or not."""
    name = meta.labels(one).get("kubernetes.io/service-name")
    service = history.get(SERVICES, f"{meta.namespace(one)}/{name}")
    return service is not None and bool(meta.spec(service).get("publishNotReadyAddresses"))


class BudgetsHonoured(Invariant):
    """No pod is evicted that its budget has not counted before, and no budget ever allows less than nothing."""

    name = "disruption budgets honoured"
    looked = 0

    def changed(self, change: Change, history: History) -> Iterable[str]:
        if change.resource == BUDGETS and change.kind != DELETED:
            if (meta.status(change.object).get("disruptionsAllowed") or 0) < 0:
                yield f"budget {change.key} allows {meta.status(change.object)['disruptionsAllowed']} disruptions"
            return
        if change.resource != PODS or not _evicted_now(change):
            return
        old = change.old
        if old is None or needs_no_budget(old) or not pod_is_ready(old):
            return
        for budget in matching_budgets(old, history.list(BUDGETS, meta.namespace(old))):
            self.looked += 1
            counted = meta.status(budget).get("disruptedPods") or {}
            if meta.name(old) not in counted and not spends_nothing(old, budget):
                yield f"pod {change.key} was evicted, and budget {meta.key(budget)} has not counted it"


def _evicted_now(change: Change) -> bool:
    if change.kind == DELETED or _is_evicted(change.old):
        return False
    return _is_evicted(change.object)


def _is_evicted(pod: Object | None) -> bool:
    condition = meta.get_condition(pod, "DisruptionTarget") if pod is not None else None
    return bool(condition) and (condition or {}).get("reason") == "EvictionByEvictionAPI"
