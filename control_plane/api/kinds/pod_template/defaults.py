"""Defaults of pods and pod templates: containers, probes, ports, volumes, resources."""

from __future__ import annotations

from typing import Any

from rayplane.control_plane.api.machinery.quantity import QuantityError, parse
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.containers import lifecycled
from rayplane.control_plane.api.pods.resources import (
    COMPUTE,
    HUGE_PAGES,
    container_limits,
    is_pod_level,
    pod_limits,
    pod_requests,
)

_MILLI = 1_000_000
_POD_DEFAULTS = (
    ("dnsPolicy", "ClusterFirst"),
    ("restartPolicy", "Always"),
    ("schedulerName", "default-scheduler"),
)
_CONTAINER_DEFAULTS = (
    ("terminationMessagePath", "/dev/termination-log"),
    ("terminationMessagePolicy", "File"),
)
_SOURCE_DEFAULTS: dict[str, dict[str, Any]] = {
    "hostPath": {"type": ""},
    "iscsi": {"iscsiInterface": "default"},
    "rbd": {"pool": "rbd", "user": "admin", "keyring": "/etc/ceph/keyring"},
    "azureDisk": {"cachingMode": "ReadWrite", "fsType": "ext4", "readOnly": False, "kind": "Shared"},
    "scaleIO": {"storageMode": "ThinProvisioned", "fsType": "xfs"},
}
_MODE_SOURCES = frozenset({"secret", "configMap", "downwardAPI", "projected"})


def image_pull_policy(image: str) -> str:
    """`Always` for the tag `latest` (also when tag and digest are left out), else `IfNotPresent`."""
    name, _, digest = image.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    return "Always" if tag == "latest" or (image and not tag and not digest) else "IfNotPresent"


def canonical_resources(resources: dict[str, Any] | None) -> None:
    """Rewrite the quantities of a resource list in canonical text, rounded up to thousandths.

    What is no quantity stays as it is, for validation to report.
    """
    if not resources:
        return
    for name, amount in resources.items():
        try:
            quantity = parse(amount)
        except QuantityError:
            continue
        if quantity.nano % _MILLI:
            quantity = type(quantity)(-(-quantity.nano // _MILLI) * _MILLI, quantity.format)
        resources[name] = str(quantity)


def _requirements(resources: dict[str, Any]) -> None:
    canonical_resources(resources.get("limits"))
    canonical_resources(resources.get("requests"))


def _http_get(action: dict[str, Any] | None) -> None:
    if action:
        if not action.get("path"):
            action["path"] = "/"
        if not action.get("scheme"):
            action["scheme"] = "HTTP"


def _probe(probe: dict[str, Any] | None) -> None:
    if probe is None:
        return
    if not probe.get("timeoutSeconds"):
        probe["timeoutSeconds"] = 1
    if not probe.get("periodSeconds"):
        probe["periodSeconds"] = 10
    if not probe.get("successThreshold"):
        probe["successThreshold"] = 1
    if not probe.get("failureThreshold"):
        probe["failureThreshold"] = 3
    _http_get(probe.get("httpGet"))
    grpc = probe.get("grpc")
    if grpc is not None:
        grpc.setdefault("service", "")


def _env(env: list[dict[str, Any]]) -> None:
    for variable in env:
        source = variable.get("valueFrom")
        if source:
            _field_refs(source)


def _field_refs(source: dict[str, Any]) -> None:
    field = source.get("fieldRef")
    if field is not None and not field.get("apiVersion"):
        field["apiVersion"] = "v1"
    resource = source.get("resourceFieldRef")
    if resource is not None and not resource.get("divisor"):
        resource["divisor"] = "0"
    file = source.get("fileKeyRef")
    if file is not None:
        file.setdefault("optional", False)


def _fill(holder: dict[str, Any], defaults: tuple[tuple[str, str], ...]) -> None:
    for field, value in defaults:
        if not holder.get(field):
            holder[field] = value


def default_container(container: dict[str, Any]) -> None:
    if not container.get("imagePullPolicy"):
        container["imagePullPolicy"] = image_pull_policy(container.get("image") or "")
    _fill(container, _CONTAINER_DEFAULTS)
    resources = container.get("resources")
    if resources:
        _requirements(resources)
    elif resources is None:
        container["resources"] = {}
    for port in container.get("ports") or ():
        if not port.get("protocol"):
            port["protocol"] = "TCP"
    env = container.get("env")
    if env:
        _env(env)
    for kind in ("livenessProbe", "readinessProbe", "startupProbe"):
        if kind in container:
            _probe(container[kind])
    for hook in (container.get("lifecycle") or {}).values():
        if isinstance(hook, dict):
            _http_get(hook.get("httpGet"))


def default_volume(volume: dict[str, Any]) -> None:
    """Modes, types and nested defaults of one volume; a volume without a source is an emptyDir."""
    if len(volume) == 1 and "name" in volume:
        volume["emptyDir"] = {}
        return
    for kind in volume.keys() & _MODE_SOURCES:
        source = volume[kind]
        if source is not None:
            if source.get("defaultMode") is None:
                source["defaultMode"] = 420
            for item in source.get("items") or ():
                _field_refs(item)
    for source in (volume.get("projected") or {}).get("sources") or ():
        _projection(source)
    for kind in volume.keys() & _SOURCE_DEFAULTS.keys():
        if volume[kind] is not None:
            given = {field: value for field, value in volume[kind].items() if value is not None}
            volume[kind] = {**_SOURCE_DEFAULTS[kind], **given}
    image = volume.get("image")
    if image is not None and not image.get("pullPolicy"):
        image["pullPolicy"] = image_pull_policy(image.get("reference") or "")
    claim = (volume.get("ephemeral") or {}).get("volumeClaimTemplate")
    if claim is not None:
        claim_spec = claim.setdefault("spec", {})
        claim_spec.setdefault("volumeMode", "Filesystem")
        _requirements(claim_spec.get("resources") or {})


def _projection(source: dict[str, Any]) -> None:
    token = source.get("serviceAccountToken")
    if token is not None and not token.get("expirationSeconds"):
        token["expirationSeconds"] = 3600
    for item in (source.get("downwardAPI") or {}).get("items") or ():
        _field_refs(item)


def default_pod_spec(spec: dict[str, Any]) -> None:
    _fill(spec, _POD_DEFAULTS)
    if spec.get("terminationGracePeriodSeconds") is None:
        spec["terminationGracePeriodSeconds"] = 30
    if spec.get("securityContext") is None:
        spec["securityContext"] = {}
    account = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if account:
        spec["serviceAccountName"] = spec["serviceAccount"] = account
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field) is False:
            del spec[field]
    for field in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(field) or ():
            default_container(container)
    for volume in spec.get("volumes") or ():
        default_volume(volume)
    canonical_resources(spec.get("overhead"))
    pod_resources = spec.get("resources")
    if pod_resources:
        _requirements(pod_resources)


def default_pod_template(template: dict[str, Any]) -> None:
    """Defaults of a PodTemplateSpec."""
    template.setdefault("metadata", {})
    default_pod_spec(template.setdefault("spec", {}))


def _requests_from_limits(container: dict[str, Any]) -> None:
    limits = container_limits(container)
    if limits:
        requests = container["resources"].setdefault("requests", {})
        for name, amount in limits.items():
            requests.setdefault(name, amount)


def _pod_level(pod: Object) -> None:
    """What of the resources of the pod as a whole is left out follows from its containers together.

    Huge pages are limited to theirs; requests are theirs, else the limits; limits are theirs if all have one.
    """
    resources = pod["spec"].get("resources")
    if not resources or not (resources.get("limits") or resources.get("requests")):
        return
    spec = {"spec": {**pod["spec"], "resources": None}}
    try:
        asked = pod_requests(spec, overhead=False, reported=False)
        limited = pod_limits(spec, overhead=False, reported=False)
    except QuantityError:
        return  # for validation to report
    requests, limits = dict(resources.get("requests") or {}), dict(resources.get("limits") or {})
    for name, amount in limited.items():
        if name.startswith(HUGE_PAGES) and name not in requests:
            limits.setdefault(name, str(amount))
    if limits:
        for name, amount in asked.items():
            if name in COMPUTE:
                requests.setdefault(name, str(amount))
        for name, written in limits.items():
            if is_pod_level(name):
                requests.setdefault(name, written)
    if pod["spec"].get("containers") and not any(is_pod_level(name) for name in limits):
        of_each = [container_limits(container).keys() for container in lifecycled(pod["spec"])]
        limits |= {name: str(limited[name]) for name in COMPUTE.intersection(*of_each)}
    resources |= {section: of for section, of in (("requests", requests), ("limits", limits)) if of}


def default_pod(pod: Object) -> None:
    """What only real pods get, not templates: service links, host ports, requests from limits."""
    spec = pod.setdefault("spec", {})
    default_pod_spec(spec)
    if spec.get("enableServiceLinks") is None:
        spec["enableServiceLinks"] = True
    host_network = spec.get("hostNetwork")
    for container in lifecycled(spec):
        _requests_from_limits(container)
        if host_network:
            for port in container.get("ports") or ():
                if not port.get("hostPort"):
                    port["hostPort"] = port.get("containerPort")
    _pod_level(pod)
