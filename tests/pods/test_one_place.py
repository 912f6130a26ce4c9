"""Rules about pods stand in one place: nobody else looks at the fields that they follow from.

Each word below is a field that only the owner of its rule has business to read. Whoever has a reason of another kind is
named here, with that reason; a name that is no longer needed has to go.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from rayplane.control_plane.api import taints
from rayplane.control_plane.api.pods.state import MIRROR, TERMINAL_PHASES

ROOT = Path(__file__).parents[2]
API = "control_plane/api/"
TAINTS = frozenset(v for v in vars(taints).values() if isinstance(v, str) and v.startswith("node.kubernetes.io/"))
FIELDS = frozenset(
    {"requests", "limits", "overhead", "allocatedResources", "qosClass", "initContainers", "hostPort", MIRROR}
)
PHASES = "Succeeded and Failed"

#: What the words of a file are among, as they are written: a file without any need not be parsed.
WRITTEN = re.compile("|".join(f'"{re.escape(word)}"' for word in sorted(FIELDS | TAINTS | TERMINAL_PHASES)))

#: Who owns the rules: a file, or a folder that ends with a slash.
OWNERS = {
    f"{API}pods/": FIELDS | {PHASES},
    f"{API}taints.py": TAINTS,
    f"{API}claims.py": {"requests", "allocatedResources"},  # of a claim: its size, and the one it grows to
}
EXCEPTIONS = {
    # Defaults fill fields in, validation looks at each by itself, tables show them.
    f"{API}kinds/": FIELDS - {"allocatedResources", MIRROR},
    # What has become of a migration.
    f"{API}kinds/storagemigration/": {PHASES},
    # The short name of LimitRanges.
    f"{API}machinery/resources.py": {"limits"},
    # Which host ports a container names, whoever else takes them.
    f"{API}podsecurity/host.py": {"hostPort"},
    # Writes the defaults of a LimitRange into containers, and tells init containers apart in its messages.
    "control_plane/apiserver/admission/limits.py": {"requests", "limits", "initContainers"},
    # What a claim asks for of devices.
    f"{API}device_quotas.py": {"requests"},
    "control_plane/apiserver/admission/devices.py": {"requests"},
    "control_plane/apiserver/admission/device_expressions.py": {"requests"},
    # The limits of EventRateLimit's configuration.
    "control_plane/apiserver/admission/configuration.py": {"limits"},
    # Tells a webhook all images.
    "control_plane/apiserver/admission/images.py": {"initContainers"},
    # Writes what a RuntimeClass says.
    "control_plane/apiserver/admission/runtime_classes.py": {"overhead"},
    "control_plane/scheduler/device_requests.py": {"requests"},
    "control_plane/scheduler/device_resources.py": {"requests"},
    "control_plane/scheduler/device_results.py": {"requests"},
    # The fields of a claim's status that a node may not write.
    "control_plane/apiserver/admission/noderestriction.py": {"allocatedResources"},
    # Compares images.
    "control_plane/apiserver/admission/podsecurity.py": {"initContainers"},
    # Words that are shown as tables.
    "control_plane/cli/describe.py": {"requests", "limits"},
    # Calls of a connection.
    "control_plane/rpc/grpc_server.py": {"requests"},
    # The prefix of a resourceFieldRef.
    "node/environment.py": {"limits"},
    # Makes a container's spec of what a client of CRI says.
    "node/cri/orders.py": {"limits", "requests"},
    # Tells of a resize in the words of the specification.
    "node/kubelet/resizing.py": {"initContainers", "limits", "requests"},
    # Starts containers in their order.
    "node/lifecycle/containers.py": {"initContainers"},
    # Publishes the class.
    "node/lifecycle/status.py": {"qosClass"},
    # Whether one container is among the init containers.
    "node/runtime/simulated.py": {"initContainers"},
}


def words(source: str) -> Iterator[str]:
    """The words that a module's code holds as texts of their own."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and node.value in FIELDS | TAINTS:
            yield str(node.value)
        elif (
            isinstance(node, ast.Tuple | ast.Set | ast.List)
            and {part.value for part in node.elts if isinstance(part, ast.Constant)} >= TERMINAL_PHASES
        ):
            yield PHASES


def strays() -> tuple[list[str], set[tuple[str, str]]]:
    """(what stands where it should not, what of the exceptions is in use)"""
    found, used = [], set()
    for top in ("control_plane", "node", "storage"):
        for path in sorted((ROOT / top).rglob("*.py")):
            name, source = path.relative_to(ROOT).as_posix(), path.read_text()
            for word in set(words(source)) if WRITTEN.search(source) else ():
                if any(name.startswith(owner) and word in owned for owner, owned in OWNERS.items()):
                    continue
                place = next((p for p, allowed in EXCEPTIONS.items() if name.startswith(p) and word in allowed), None)
                if place is None:
                    found.append(f"{name}: {word}")
                else:
                    used.add((place, word))
    return found, used


def test_nobody_reads_the_fields_of_a_rule_that_another_owns() -> None:
    found, used = strays()
    assert not found, "use rayplane.control_plane.api.pods, .taints or .claims instead: " + "; ".join(found)
    unused = {(place, word) for place, allowed in EXCEPTIONS.items() for word in allowed} - used
    assert not unused, f"exceptions that nobody needs: {sorted(unused)}"


def test_the_guard_sees_what_it_is_for() -> None:
    code = 'r = (c.get("resources") or {}).get("requests")\nif phase in ("Failed", "Succeeded"): pass\n"""limits"""\n'
    assert set(words(code)) == {"requests", PHASES, "limits"}
    assert set(words('x = "requests of a pod"\ny = ("Failed",)\n')) == set()
