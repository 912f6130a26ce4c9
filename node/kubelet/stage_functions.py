"""Functions that a node gives to the templates of stages: the moment, its own name and addresses, random texts."""

import random
import string
from collections.abc import Callable
from typing import Any

from rayplane.control_plane.stages.errors import Failed
from rayplane.control_plane.stages.templates import Given
from rayplane.node.kubelet.registration import healthy_conditions
from rayplane.storage.env import Env

VERSION = "rayplane"
TEXT_MAX = 4096
_LETTERS = string.ascii_letters + string.digits


def functions(env: Env, *, node: str, node_ip: str, port: int, address: Callable[[], str]) -> Given:
    """`address`: that of the pod which a template is about."""

    def of_node(name: Any) -> str:
        return node_ip if name == node else ""

    def of_pod(*_: Any) -> str:
        return address()

    return {
        "Now": env.timestamp,
        "now": env.timestamp,
        "StartTime": env.timestamp,
        "Version": lambda: VERSION,
        "NodeName": lambda: node,
        "NodeIP": lambda: node_ip,
        "NodeIPs": lambda: _listed(node_ip),
        "NodePort": lambda: port,
        "NodeConditions": healthy_conditions,
        "NodeIPWith": of_node,
        "NodeIPsWith": lambda name: _listed(of_node(name)),
        "PodIPWith": of_pod,
        "PodIPsWith": lambda *_: _listed(address()),
        "randInt": lambda low, high: env.rng.randrange(int(low), int(high)),
        "randAlphaNum": lambda count: _text(env.rng, count),
        "uuidv4": env.uuid,
    }


def _listed(address: str) -> list[str]:
    return [address] if address else []


def _text(rng: random.Random, count: Any) -> str:
    if not 0 <= int(count) <= TEXT_MAX:
        raise Failed(f"randAlphaNum makes at most {TEXT_MAX} characters")
    return "".join(rng.choice(_LETTERS) for _ in range(int(count)))
