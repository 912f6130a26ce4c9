"""Specs as JSON, for actors of another build: what it does not know is left out, what it misses is as usual."""

import base64
from dataclasses import fields
from typing import Any

from rayplane.control_plane.cluster.components import Spec
from rayplane.control_plane.cluster.config import AddressPlan, ClusterConfig
from rayplane.control_plane.cluster.pki import Secrets
from rayplane.control_plane.cluster.topology import Instance, Topology
from rayplane.control_plane.rpc.tls import Credentials


def spec_to_json(spec: Spec) -> dict[str, Any]:
    return {
        "instance": spec.instance.to_json(),
        "config": spec.config.to_json(),
        "plan": spec.plan.to_json(),
        "topology": spec.topology.to_json(),
        "credentials": _texts(spec.credentials),
        "secrets": _texts(spec.secrets),
        "front_proxy": _texts(spec.front_proxy),
        "data_dir": spec.data_dir,
        "log_file": spec.log_file,
        "restarted": spec.restarted,
    }


def spec_from_json(data: dict[str, Any]) -> Spec:
    """The spec that another build wrote. Raises KeyError, TypeError, ValueError."""
    known = {field.name for field in fields(ClusterConfig)}
    credentials, secrets, front = (data[name] for name in ("credentials", "secrets", "front_proxy"))
    return Spec(
        instance=Instance.from_json(data["instance"]),
        config=ClusterConfig(**{name: value for name, value in data["config"].items() if name in known}),
        plan=AddressPlan.from_json(data["plan"]),
        topology=Topology.from_json(data["topology"]),
        credentials=Credentials(**_bytes(Credentials, credentials)) if credentials else None,
        secrets=Secrets(**_bytes(Secrets, secrets)) if secrets else None,
        front_proxy=Credentials(**_bytes(Credentials, front)) if front else None,
        data_dir=data["data_dir"],
        log_file=data["log_file"],
        restarted=data["restarted"],
    )


def _texts(of: Credentials | Secrets | None) -> dict[str, str] | None:
    if of is None:
        return None
    return {field.name: base64.b64encode(getattr(of, field.name)).decode() for field in fields(of)}


def _bytes(kind: type[Credentials] | type[Secrets], data: dict[str, str]) -> dict[str, bytes]:
    known = {field.name for field in fields(kind)}
    return {name: base64.b64decode(text) for name, text in data.items() if name in known}
