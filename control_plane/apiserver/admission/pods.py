"""Admission of new pods: they are given a service account, a priority, default tolerations; pod groups a priority."""

import asyncio
import random

from rayplane.control_plane.api.errors import Forbidden
from rayplane.control_plane.api.kinds.pod_template.alike import TOKEN_VOLUME
from rayplane.control_plane.api.kinds.scheduling.fields import GROUPS
from rayplane.control_plane.api.kinds.strategy import SUFFIX_ALPHABET, SUFFIX_LENGTH
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.containers import lifecycled
from rayplane.control_plane.api.pods.state import is_mirror
from rayplane.control_plane.api.taints import NO_EXECUTE, NOT_READY, UNREACHABLE
from rayplane.control_plane.apiserver.admission.plugins import creation_of, only, writing_of
from rayplane.control_plane.apiserver.admission.request import AdmissionRequest
from rayplane.control_plane.apiserver.authentication.tokens import MOUNTED_S
from rayplane.control_plane.apiserver.config import Timing
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup

# The account `default` of a new namespace is made by a controller: wait for it a little.
_DEFAULT_ACCOUNT_TRIES = 20
_DEFAULT_ACCOUNT_PAUSE_S = 0.1
_TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
_DEFAULT_PREEMPTION = "PreemptLowerPriority"


class ServiceAccounts:
    """Kubernetes' ServiceAccount plugin: an account for each pod, and its token where programs look for it."""

    def __init__(self, lookup: Lookup, rng: random.Random) -> None:
        self._lookup = lookup
        self._rng = rng

    @only(creation_of("pods"))
    async def admit(self, request: AdmissionRequest) -> None:
        pod = request.object
        if is_mirror(pod):
            return
        spec = pod["spec"]
        name = spec.get("serviceAccountName") or "default"
        spec["serviceAccountName"] = spec["serviceAccount"] = name
        account = await self._find(request.namespace, name)
        if account is None:
            text = f'error looking up service account {request.namespace}/{name}: serviceaccount "{name}" not found'
            raise Forbidden.of("pods", request.shown_name, text)
        if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
            spec["imagePullSecrets"] = [dict(one) for one in account["imagePullSecrets"]]
        own, usual = (o.get("automountServiceAccountToken") for o in (spec, account))
        if own if own is not None else usual is not False:
            self._mount_token(spec)

    def _mount_token(self, spec: Object) -> None:
        """In every container that has nothing there."""
        bare = [
            c for c in lifecycled(spec) if all(m.get("mountPath") != _TOKEN_PATH for m in c.get("volumeMounts") or ())
        ]
        if not bare:
            return
        names = [volume.get("name") or "" for volume in spec.get("volumes") or ()]
        name = next((one for one in names if one.startswith(TOKEN_VOLUME)), "")
        if not name:
            name = TOKEN_VOLUME + "".join(self._rng.choices(SUFFIX_ALPHABET, k=SUFFIX_LENGTH))
            spec["volumes"] = [*(spec.get("volumes") or ()), {"name": name, "projected": _token_files()}]
        for container in bare:
            mount = {"name": name, "readOnly": True, "mountPath": _TOKEN_PATH}
            container["volumeMounts"] = [*(container.get("volumeMounts") or ()), mount]

    async def _find(self, namespace: str, name: str) -> Object | None:
        tries = _DEFAULT_ACCOUNT_TRIES if name == "default" else 1
        for left in range(tries, 0, -1):
            account = await self._lookup.get("serviceaccounts", name, namespace)
            if account is not None or left == 1:
                return account
            await asyncio.sleep(_DEFAULT_ACCOUNT_PAUSE_S)
        return None


def _token_files() -> Object:
    """A pod's token, the authority to trust and its namespace, as a projected volume."""
    namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    return {
        "defaultMode": 0o644,
        "sources": [
            {"serviceAccountToken": {"expirationSeconds": MOUNTED_S, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [namespace]}},
        ],
    }


class Priorities:
    """Kubernetes' Priority plugin: the class's value goes into the pod or pod group, its policy into the pod."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    @only(writing_of("pods", GROUPS))
    async def admit(self, request: AdmissionRequest) -> None:
        if request.updates("pods"):
            _keep(request, ("priority", "preemptionPolicy"))
        elif request.updates(GROUPS):
            _keep(request, ("priority",))
        elif request.creates("pods"):
            await self._fill(request, "pod spec", has_policy=True)
        else:
            await self._fill(request, "pod group spec", has_policy=False)

    async def _fill(self, request: AdmissionRequest, where: str, *, has_policy: bool) -> None:
        spec = request.object["spec"]
        name, priority, preemption = await self._class_of(request, spec.get("priorityClassName") or "")
        if name:
            spec["priorityClassName"] = name
        given = spec.get("priority")
        if given is not None and given != priority:
            text = (
                f"the integer value of priority must not be provided in {where}; priority admission controller "
                f"computed {priority} from the given PriorityClass name"
            )
            raise Forbidden.of(request.info.name, request.shown_name, text)
        spec["priority"] = priority
        chosen = spec.get("preemptionPolicy")
        if not has_policy:
            return
        if chosen is not None and chosen != preemption:
            text = (
                f"the string value of PreemptionPolicy must not be provided in {where}; priority admission "
                f"controller computed {preemption} from the given PriorityClass name"
            )
            raise Forbidden.of(request.info.name, request.shown_name, text)
        spec["preemptionPolicy"] = preemption

    async def _class_of(self, request: AdmissionRequest, name: str) -> tuple[str, int, str]:
        resource = "priorityclasses.scheduling.k8s.io"
        if name:
            found = await self._lookup.get(resource, name)
            if found is None:
                text = f"no PriorityClass with name {name} was found"
                raise Forbidden.of(request.info.name, request.shown_name, text)
        else:
            defaults = [c for c in await self._lookup.list(resource) if c.get("globalDefault")]
            if not defaults:
                return "", 0, _DEFAULT_PREEMPTION
            found = min(defaults, key=lambda c: c.get("value") or 0)
        policy = found.get("preemptionPolicy") or _DEFAULT_PREEMPTION
        return found["metadata"]["name"], found.get("value") or 0, policy


class DefaultTolerations:
    """Kubernetes' DefaultTolerationSeconds plugin."""

    def __init__(self, timing: Timing) -> None:
        self._seconds = timing.toleration_seconds

    @only(writing_of("pods"))
    async def admit(self, request: AdmissionRequest) -> None:
        spec = request.object["spec"]
        tolerations = spec.get("tolerations") or []
        for taint in (NOT_READY, UNREACHABLE):
            if not any(_tolerates(t, taint) for t in tolerations):
                tolerations = [
                    *tolerations,
                    {
                        "key": taint,
                        "operator": "Exists",
                        "effect": NO_EXECUTE,
                        "tolerationSeconds": self._seconds,
                    },
                ]
        if tolerations:
            spec["tolerations"] = tolerations


def _keep(request: AdmissionRequest, fields: tuple[str, ...]) -> None:
    """What admission has set once stays where an update leaves it out."""
    spec, old = request.object["spec"], (request.old or {}).get("spec") or {}
    for field in fields:
        if spec.get(field) is None and field in old:
            spec[field] = old[field]


def _tolerates(toleration: Object, taint: str) -> bool:
    return toleration.get("key") in (taint, None, "") and toleration.get("effect") in (
        NO_EXECUTE,
        None,
        "",
    )
