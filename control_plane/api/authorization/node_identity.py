"""Node identities: the names of nodes in a kubelet's certificate.

As in Kubernetes a node is the user `system:node:NAME` in the group `system:nodes`. The host of several nodes calls for
all of them with one certificate: its user is the first, and a group `system:node:NAME` names each further one. Who may
give out such certificates may name any node anyway.
"""

from collections.abc import Sequence
from functools import lru_cache

from rayplane.control_plane.identities import NODE_DOMAIN, NODE_HOSTS, NODES

NODE_LEASES = "kube-node-lease"
"""The namespace of the Leases that nodes renew."""
VOLUME_RECORDS_NAMESPACE = "kube-system"
VOLUME_RECORDS_PREFIX = "volume-"
"""The Leases on which node hosts agree about replicated volumes: where they are and how their names begin."""
NODE_PREFIX = "system:node:"
_CACHE = 4096


def host_identity(nodes: Sequence[str], *, fallback: str) -> tuple[str, tuple[str, ...]]:
    """User and groups of the host of these nodes; of the node `fallback` where there are none."""
    first, *others = nodes or (fallback,)
    return f"{NODE_PREFIX}{first}", (NODES, NODE_HOSTS, *(f"{NODE_PREFIX}{name}" for name in others))


def node_user(node: str) -> str:
    return f"{NODE_PREFIX}{node}"


def server_name(node: str) -> str:
    """What a node that joined is called in TLS, where it serves logs and commands of its pods."""
    return f"{node}.{NODE_DOMAIN}"


@lru_cache(maxsize=_CACHE)
def nodes_of(user: str, groups: tuple[str, ...]) -> frozenset[str] | None:
    """The nodes that a caller is; None for who is no node. Empty: a node without a name, which may do nothing."""
    if not user.startswith(NODE_PREFIX) or NODES not in groups:
        return None
    names = (name.removeprefix(NODE_PREFIX) for name in (user, *groups) if name.startswith(NODE_PREFIX))
    return frozenset(name for name in names if name)


@lru_cache(maxsize=_CACHE)
def without_nodes(groups: tuple[str, ...]) -> tuple[str, ...]:
    """The groups that name no node."""
    return tuple(group for group in groups if not group.startswith(NODE_PREFIX))


def nodes_text(nodes: frozenset[str]) -> str:
    """How messages call them: the name of one, the first of several."""
    first, *others = sorted(nodes)
    return f"{first} and {len(others)} more" if others else first
