"""Environment variables of a container (core/v1 EnvVar), and `$(NAME)` expansion. Pure.

Order of precedence as in Kubernetes: service links, then envFrom, then env; later ones win, and a value may refer to
variables defined before it.
"""

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.containers import named
from rayplane.control_plane.api.pods.resources import container_limits, container_requests
from rayplane.node.errors import ContainerConfigError

#: No system takes a longer argument, or more of them together, than these.
EXPANDED_CHARS_MAX = 1 << 20
ENVIRONMENT_CHARS_MAX = 4 << 20
_EXPANSION = re.compile(r"\$(\$|\(([^()]*)\))")
_SUBSCRIPT = re.compile(r"^metadata\.(labels|annotations)\['([^']*)'\]$")
_KINDS = {"configmaps": "ConfigMap", "secrets": "Secret"}
_API = "default/kubernetes"
_SINGULAR = {"configmaps": "configmap", "secrets": "secret"}


@dataclass(frozen=True, slots=True)
class PodFacts:
    """Facts that the node knows of a pod besides its object. cpu and memory: the node's allocatable, quantities."""

    pod_ip: str
    host_ip: str
    node_name: str
    node_cpu: str
    node_memory: str


@dataclass(frozen=True, slots=True)
class Reference:
    """A ConfigMap or Secret in the pod's namespace. `resource`: configmaps or secrets."""

    resource: str
    name: str
    optional: bool = False


Found = Mapping[tuple[str, str], Object | None]
"""(resource, name) to the object, or None where there is none."""
Files = Mapping[tuple[str, str], Mapping[str, str] | None]
"""(volume, path) to the variables of the file, or None where there is none."""


def env_references(container: dict[str, Any]) -> list[Reference]:
    """The objects that `container_env` needs."""
    refs = []
    for source in container.get("envFrom") or ():
        for part, resource in (("configMapRef", "configmaps"), ("secretRef", "secrets")):
            ref = source.get(part)
            if ref:
                refs.append(Reference(resource, ref["name"], bool(ref.get("optional"))))
    for variable in container.get("env") or ():
        value_from = variable.get("valueFrom") or {}
        for part, resource in (("configMapKeyRef", "configmaps"), ("secretKeyRef", "secrets")):
            ref = value_from.get(part)
            if ref:
                refs.append(Reference(resource, ref["name"], bool(ref.get("optional"))))
    return refs


def container_env(
    container: dict[str, Any],
    pod: Object,
    facts: PodFacts,
    *,
    found: Found,
    services: Iterable[Object] = (),
    files: Files | None = None,
) -> dict[str, str]:
    """The variables. Raises ContainerConfigError naming the object or key that is missing.

    Without `files` there are none to be told of, and what would come from them is left out.
    """
    env: dict[str, str] = {}
    linked = pod["spec"].get("enableServiceLinks") is not False
    for service in services:
        if linked or meta.key(service) == _API:  # how programs find the API, which no pod can forgo
            env.update(service_links(service))
    for source in container.get("envFrom") or ():
        for part, resource in (("configMapRef", "configmaps"), ("secretRef", "secrets")):
            ref = source.get(part)
            if ref:
                data = text_data(_object(found, resource, ref))
                prefix = source.get("prefix") or ""
                env.update({prefix + key: data[key] for key in sorted(data)})
    size = sum(map(len, env.values()))
    for variable in container.get("env") or ():
        value_from = variable.get("valueFrom")
        if value_from:
            value = _value_from(value_from, container, pod, facts, found, files)
            if value is None:
                continue
        else:
            value = expand(variable.get("value") or "", env)
        env[variable["name"]] = value
        size += len(value)
        if size > ENVIRONMENT_CHARS_MAX:
            raise ContainerConfigError(f"the environment has more than {ENVIRONMENT_CHARS_MAX} characters")
    return env


def expand(text: str, env: Mapping[str, str]) -> str:
    """`$(NAME)` becomes the variable's value, `$$` becomes `$`, unknown names stay as they are.

    Raises ContainerConfigError where the result would be too long: values may double from one variable to the next.
    """
    size = len(text)

    def replace(match: re.Match[str]) -> str:
        nonlocal size
        if match.group(1) == "$":
            return "$"
        value = env.get(match.group(2), match.group(0))
        size += len(value)
        if size > EXPANDED_CHARS_MAX:
            raise ContainerConfigError(f"references expand to more than {EXPANDED_CHARS_MAX} characters")
        return value

    return _EXPANSION.sub(replace, text)


def expand_path(text: str, env: Mapping[str, str]) -> str:
    """A subPathExpr with its variables. Raises ContainerConfigError where one is not known, or it leads out."""
    for match in _EXPANSION.finditer(text):
        if match.group(1) != "$" and match.group(2) not in env:
            raise ContainerConfigError(f'missing value for "{match.group(2)}"')
    path = expand(text, env)
    if path.startswith("/"):
        raise ContainerConfigError(f"error SubPath `{path}` must not be an absolute path")
    if ".." in path.split("/"):
        raise ContainerConfigError(f"unable to provision SubPath `{path}`: must not contain '..'")
    return path


def text_data(obj: Object | None) -> dict[str, str]:
    """Data of a ConfigMap without its binaryData, or of a Secret decoded, as text."""
    if obj is not None and obj.get("kind") != "Secret":
        return obj.get("data") or {}
    return {key: value.decode(errors="replace") for key, value in binary_data(obj).items()}


def binary_data(obj: Object | None) -> dict[str, bytes]:
    """Data of a ConfigMap (data and binaryData) or of a Secret, as bytes."""
    if obj is None:
        return {}
    if obj.get("kind") == "Secret":
        out = {k: base64.b64decode(v) for k, v in (obj.get("data") or {}).items()}
        return out | {k: v.encode() for k, v in (obj.get("stringData") or {}).items()}
    out = {k: v.encode() for k, v in (obj.get("data") or {}).items()}
    return out | {k: base64.b64decode(v) for k, v in (obj.get("binaryData") or {}).items()}


def _object(found: Found, resource: str, ref: dict[str, Any]) -> Object | None:
    obj = found.get((resource, ref["name"]))
    if obj is None and not ref.get("optional"):
        raise ContainerConfigError(f'{_SINGULAR[resource]} "{ref["name"]}" not found')
    return obj


def _value_from(
    value_from: dict[str, Any],
    container: dict[str, Any],
    pod: Object,
    facts: PodFacts,
    found: Found,
    files: Files | None,
) -> str | None:
    for part, resource in (("configMapKeyRef", "configmaps"), ("secretKeyRef", "secrets")):
        ref = value_from.get(part)
        if ref:
            data = text_data(_object(found, resource, ref))
            if ref["key"] in data:
                return data[ref["key"]]
            if ref.get("optional"):
                return None
            where = f"{meta.namespace(pod)}/{ref['name']}"
            raise ContainerConfigError(f"couldn't find key {ref['key']} in {_KINDS[resource]} {where}")
    if value_from.get("fileKeyRef"):
        return _from_file(value_from["fileKeyRef"], files)
    if "fieldRef" in value_from:
        return field_value(value_from["fieldRef"]["fieldPath"], pod, facts)
    if "resourceFieldRef" in value_from:
        ref = value_from["resourceFieldRef"]
        chosen = container
        if ref.get("containerName"):
            chosen = named(pod["spec"], ref["containerName"]) or container
        return resource_value(ref, chosen, facts)
    raise ContainerConfigError("valueFrom names no source that this node knows")


def _from_file(ref: dict[str, Any], files: Files | None) -> str | None:
    if files is None:
        return None
    variables = files.get((ref["volumeName"], ref["path"])) or {}
    if ref["key"] in variables or ref.get("optional"):
        return variables.get(ref["key"])
    raise ContainerConfigError(f'environment variable key "{ref["key"]}" not found in file "{ref["path"]}"')


def file_references(container: dict[str, Any]) -> list[tuple[str, str]]:
    """(volume, path) of the files that `container_env` needs."""
    refs = ((v.get("valueFrom") or {}).get("fileKeyRef") for v in container.get("env") or ())
    return [(ref["volumeName"], ref["path"]) for ref in refs if ref]


def field_value(path: str, pod: Object, facts: PodFacts) -> str:
    """A field of the pod as text, for fieldRef (downward API)."""
    subscript = _SUBSCRIPT.match(path)
    if subscript:
        values = meta.metadata(pod).get(subscript.group(1)) or {}
        return str(values.get(subscript.group(2), ""))
    if path in ("metadata.labels", "metadata.annotations"):
        values = meta.metadata(pod).get(path.partition(".")[2]) or {}
        return "\n".join(f"{key}={_quoted(values[key])}" for key in sorted(values))
    simple = {
        "metadata.name": meta.name(pod),
        "metadata.namespace": meta.namespace(pod),
        "metadata.uid": meta.uid(pod),
        "spec.nodeName": facts.node_name,
        "spec.serviceAccountName": pod["spec"].get("serviceAccountName") or "default",
        "status.hostIP": facts.host_ip,
        "status.hostIPs": facts.host_ip,
        "status.podIP": facts.pod_ip,
        "status.podIPs": facts.pod_ip,
    }
    try:
        return simple[path]
    except KeyError:
        raise ContainerConfigError(f"fieldPath {path} is not supported") from None


def resource_value(ref: dict[str, Any], container: dict[str, Any], facts: PodFacts) -> str:
    """limits.* and requests.* divided by the divisor, rounded up; without a limit the node's allocatable."""
    kind, _, resource = ref["resource"].partition(".")
    amount = (container_limits if kind == "limits" else container_requests)(container).get(resource)
    if amount is None and kind == "limits":
        amount = {"cpu": facts.node_cpu, "memory": facts.node_memory}.get(resource)
    divisor = ref.get("divisor") or "1"
    if str(divisor) == "0":
        divisor = "1"
    milli = quantity.milli(amount or "0")
    return str(-(-milli // max(1, quantity.milli(divisor))))


def service_links(service: Object) -> dict[str, str]:
    """FOO_SERVICE_HOST, FOO_SERVICE_PORT and the docker-style variables; none for headless services."""
    spec = service.get("spec") or {}
    ip, ports = spec.get("clusterIP"), spec.get("ports") or ()
    if not ip or ip == "None" or not ports:
        return {}
    prefix = meta.name(service).upper().replace("-", "_")
    first = ports[0]
    env = {
        f"{prefix}_SERVICE_HOST": ip,
        f"{prefix}_SERVICE_PORT": str(first["port"]),
        f"{prefix}_PORT": f"{(first.get('protocol') or 'TCP').lower()}://{ip}:{first['port']}",
    }
    for port in ports:
        protocol, number = port.get("protocol") or "TCP", port["port"]
        if port.get("name"):
            name = port["name"].upper().replace("-", "_")
            env[f"{prefix}_SERVICE_PORT_{name}"] = str(number)
        link = f"{prefix}_PORT_{number}_{protocol}"
        env[link] = f"{protocol.lower()}://{ip}:{number}"
        env[f"{link}_PROTO"] = protocol.lower()
        env[f"{link}_PORT"] = str(number)
        env[f"{link}_ADDR"] = ip
    return env


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
