"""The graph from nodes over the pods bound to them to secrets, config maps, claims of both kinds, volumes and accounts.

Beside it, the Secrets whose certificates Ingresses show: those are for the hosts of nodes, which all serve them.

Fed object by object from watches; knows names only, so it is as small as the references between objects. Pure, owned by
one event loop.
Source: Kubernetes reference "Using Node Authorization".
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.ingresses import DEFAULT_CERTIFICATE, INGRESSES, is_served, tls_parts
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.containers import every
from rayplane.control_plane.api.pods.state import is_mirror
from rayplane.control_plane.api.pods.volumes import claim_name

CLAIMS, VOLUMES = "persistentvolumeclaims", "persistentvolumes"
ATTACHMENTS = "volumeattachments.storage.k8s.io"
RESOURCE_CLAIMS, SLICES = "resourceclaims.resource.k8s.io", "resourceslices.resource.k8s.io"
# Of a CSI volume's secrets the controller's are none of the node's business.
_VISIBLE = ("secretRef", "nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef")


class Ref(NamedTuple):
    """An object; `namespace` is empty for what has none."""

    resource: str
    namespace: str
    name: str


class _Pod(NamedTuple):
    node: str
    mark: tuple[Any, ...]
    """What its references depend on: they are not looked for again while it stays the same."""
    refs: frozenset[Ref]


class _Volume(NamedTuple):
    claim: Ref
    secrets: frozenset[Ref]


@dataclass(slots=True)
class NodeGraph:
    """The pods of nodes and what they refer to.

    `put` and `remove` pods, volumes, volume attachments and resource slices; `reaches` answers.
    """

    _pods: dict[Ref, _Pod] = field(default_factory=dict)
    _users: dict[Ref, Counter[str]] = field(default_factory=dict)
    _volumes: dict[Ref, _Volume] = field(default_factory=dict)
    _by_secret: dict[Ref, set[Ref]] = field(default_factory=dict)
    _of_a_node: dict[Ref, str] = field(default_factory=dict)
    """The nodes of what names one itself: attachments and resource slices."""
    _shown: dict[Ref, frozenset[Ref]] = field(default_factory=dict)
    """Secrets by the Ingress that names them."""
    _shows: Counter[Ref] = field(default_factory=Counter)

    def put(self, resource: str, o: Object) -> None:
        ref = Ref(resource, meta.namespace(o), meta.name(o))
        if resource == "pods":
            self._put_pod(ref, o)
        elif resource == VOLUMES:
            self._put_volume(ref, o)
        elif resource == INGRESSES:
            self._forget_ingress(ref)
            if is_served(o):
                self._put_ingress(ref, o)
        else:
            self._of_a_node[ref] = meta.spec(o).get("nodeName") or ""

    def remove(self, resource: str, o: Object) -> None:
        ref = Ref(resource, meta.namespace(o), meta.name(o))
        if resource == "pods":
            self._forget_pod(ref)
        elif resource == VOLUMES:
            self._forget_volume(ref)
        elif resource == INGRESSES:
            self._forget_ingress(ref)
        else:
            self._of_a_node.pop(ref, None)

    def reaches(self, ref: Ref, nodes: frozenset[str]) -> bool:
        """Whether one of `nodes` has anything to do with an object."""
        if ref.resource == "pods":
            pod = self._pods.get(ref)
            return pod is not None and pod.node in nodes
        if ref.resource in (ATTACHMENTS, SLICES):
            return self._of_a_node.get(ref) in nodes
        if ref.resource == VOLUMES:
            volume = self._volumes.get(ref)
            return volume is not None and self._uses(volume.claim, nodes)
        return self._uses(ref, nodes) or any(self.reaches(v, nodes) for v in self._by_secret.get(ref, ()))

    def is_shown(self, ref: Ref) -> bool:
        """Whether an Ingress shows the certificate of a Secret, or that is the one for all."""
        return ref in self._shows or (ref.namespace, ref.name) == DEFAULT_CERTIFICATE

    def _put_ingress(self, ref: Ref, ingress: Object) -> None:
        self._shown[ref] = frozenset(Ref("secrets", ref.namespace, secret) for secret, _ in tls_parts(ingress))
        self._shows.update(self._shown[ref])

    def _forget_ingress(self, ref: Ref) -> None:
        for secret in self._shown.pop(ref, ()):
            self._shows[secret] -= 1
            if not self._shows[secret]:
                del self._shows[secret]

    def _uses(self, ref: Ref, nodes: frozenset[str]) -> bool:
        users = self._users.get(ref)
        return users is not None and not nodes.isdisjoint(users)

    # --- pods ---------------------------------------------------------------------------------

    def _put_pod(self, ref: Ref, pod: Object) -> None:
        spec = meta.spec(pod)
        node = spec.get("nodeName")
        if not node:
            self._forget_pod(ref)
            return
        mark = (meta.uid(pod), node, len(spec.get("ephemeralContainers") or ()), _made_claims(pod))
        known = self._pods.get(ref)
        if known is not None and known.mark == mark:
            return
        self._forget_pod(ref)
        # A mirror pod was written by its node: it opens nothing.
        refs = frozenset() if is_mirror(pod) else frozenset(pod_references(pod))
        self._pods[ref] = _Pod(node, mark, refs)
        for one in refs:
            self._users.setdefault(one, Counter())[node] += 1

    def _forget_pod(self, ref: Ref) -> None:
        known = self._pods.pop(ref, None)
        if known is None:
            return
        for one in known.refs:
            users = self._users[one]
            users[known.node] -= 1
            if not users[known.node]:
                del users[known.node]
            if not users:
                del self._users[one]

    # --- volumes ------------------------------------------------------------------------------

    def _put_volume(self, ref: Ref, volume: Object) -> None:
        self._forget_volume(ref)
        claim = meta.spec(volume).get("claimRef") or {}
        namespace = claim.get("namespace") or ""
        if not claim.get("name"):
            return
        secrets = frozenset(
            Ref("secrets", space or namespace, name) for space, name in _secrets_of_source(meta.spec(volume))
        )
        self._volumes[ref] = _Volume(Ref(CLAIMS, namespace, claim["name"]), secrets)
        for one in secrets:
            self._by_secret.setdefault(one, set()).add(ref)

    def _forget_volume(self, ref: Ref) -> None:
        known = self._volumes.pop(ref, None)
        for one in known.secrets if known is not None else ():
            volumes = self._by_secret[one]
            volumes.discard(ref)
            if not volumes:
                del self._by_secret[one]


def _made_claims(pod: Object) -> tuple[str, ...]:
    """The names of the resource claims that were made for a pod."""
    statuses = meta.status(pod).get("resourceClaimStatuses") or ()
    extended = meta.status(pod).get("extendedResourceClaimStatus") or {}
    found = [one.get("resourceClaimName") for one in (*statuses, extended)]
    return tuple(name for name in found if name)


def pod_references(pod: Object) -> Iterator[Ref]:
    """Everything that the node of a pod has to read for it."""
    spec, namespace = meta.spec(pod), meta.namespace(pod)
    found = [("serviceaccounts", spec.get("serviceAccountName"))]
    found += [("secrets", one.get("name")) for one in spec.get("imagePullSecrets") or ()]
    for container in every(spec):
        found += _of_environment(container)
    found += [(RESOURCE_CLAIMS, one.get("resourceClaimName")) for one in spec.get("resourceClaims") or ()]
    found += [(RESOURCE_CLAIMS, name) for name in _made_claims(pod)]
    for volume in spec.get("volumes") or ():
        found += _of_volume(volume, meta.name(pod))
    for resource, name in found:
        if name:
            yield Ref(resource, namespace, name)


def _of_environment(container: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    for source in container.get("envFrom") or ():
        yield "secrets", (source.get("secretRef") or {}).get("name")
        yield "configmaps", (source.get("configMapRef") or {}).get("name")
    for variable in container.get("env") or ():
        value = variable.get("valueFrom") or {}
        yield "secrets", (value.get("secretKeyRef") or {}).get("name")
        yield "configmaps", (value.get("configMapKeyRef") or {}).get("name")


def _of_volume(volume: Mapping[str, Any], pod: str) -> Iterator[tuple[str, str | None]]:
    yield "configmaps", (volume.get("configMap") or {}).get("name")
    yield CLAIMS, claim_name(volume, pod)
    for source in (volume.get("projected") or {}).get("sources") or ():
        yield "secrets", (source.get("secret") or {}).get("name")
        yield "configmaps", (source.get("configMap") or {}).get("name")
    for _, name in _secrets_of_source(volume):
        yield "secrets", name


def _secrets_of_source(source: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(namespace, name) of the secrets that a volume of whatever type needs on its node; the namespace may be empty."""
    for kind in source.values():
        if not isinstance(kind, dict):
            continue
        if kind.get("secretName"):
            yield kind.get("secretNamespace") or "", kind["secretName"]
        for one in _VISIBLE:
            secret = kind.get(one)
            if isinstance(secret, dict) and secret.get("name"):
                yield secret.get("namespace") or "", secret["name"]
