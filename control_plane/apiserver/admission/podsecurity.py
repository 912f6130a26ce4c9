"""PodSecurity, as in Kubernetes: pods keep the Pod Security Standards that their namespace's labels choose."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from rayplane.control_plane.api import podsecurity
from rayplane.control_plane.api.errors import Forbidden, InternalError, Invalid
from rayplane.control_plane.api.meta import Object, labels
from rayplane.control_plane.api.podsecurity.levels import MODES, PREFIX, Level, LevelVersion, Policy
from rayplane.control_plane.apiserver.admission.plugins import only
from rayplane.control_plane.apiserver.admission.request import CREATE, DELETE, AdmissionRequest
from rayplane.control_plane.apiserver.config import PodSecurityConfig
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup

_TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "podtemplates": ("template",),
    "replicationcontrollers": ("spec", "template"),
    "replicasets.apps": ("spec", "template"),
    "deployments.apps": ("spec", "template"),
    "statefulsets.apps": ("spec", "template"),
    "daemonsets.apps": ("spec", "template"),
    "jobs.batch": ("spec", "template"),
    "cronjobs.batch": ("spec", "jobTemplate", "spec", "template"),
}
"""Resources that make pods, and where their template is."""
RESOURCES = frozenset({"namespaces", "pods", *_TEMPLATES})
# Subresources that change what a pod may do.
_POD_PARTS = ("", "ephemeralcontainers", "resize")
_PODS_CHECKED_MAX = 3000
_CHECK_S_MAX = 1.0
# Pods looked at between two turns of the others on the loop.
_AT_ONCE = 50


def _concerned(request: AdmissionRequest) -> bool:
    resource, part = request.info.name, request.subresource
    if request.operation == DELETE or resource not in RESOURCES:
        return False
    return part in _POD_PARTS if resource == "pods" else not part


class PodSecurity:
    """A plugin that refuses pods, warns of pods and their controllers, and tells what a namespace's new level would
    refuse.
    """

    def __init__(self, config: PodSecurityConfig, lookup: Lookup) -> None:
        self._config = config
        self._defaults = config.policy()
        self._lookup = lookup

    @only(_concerned)
    async def admit(self, request: AdmissionRequest) -> None:
        """Look at a valid object. Forbidden; Invalid for a namespace's labels."""
        resource = request.info.name
        if resource == "namespaces":
            await self._namespace(request)
        elif resource == "pods":
            await self._pod(request)
        else:
            await self._controller(request)

    # --- pods and what makes them -------------------------------------------------------------

    async def _pod(self, request: AdmissionRequest) -> None:
        if self._exempt(request):
            return
        policy, errors = await self._policy_of(request)
        if not errors and policy.privileged:
            request.annotate("enforce-policy", str(policy.enforce))
            return
        pod = request.object
        if request.old is not None and not _matters(pod["spec"], request.old.get("spec") or {}):
            return
        self._evaluate(request, policy, pod["metadata"], pod["spec"], enforce=True)

    async def _controller(self, request: AdmissionRequest) -> None:
        if self._exempt(request):
            return
        policy, errors = await self._policy_of(request)
        if not errors and policy.warn.level == policy.audit.level == Level.PRIVILEGED:
            return
        template: Any = request.object
        for field in _TEMPLATES[request.info.name]:
            template = (template or {}).get(field)
        if template:
            self._evaluate(request, policy, template.get("metadata"), template.get("spec") or {}, enforce=False)

    def _exempt(self, request: AdmissionRequest) -> bool:
        for listed, value, why in (
            (self._config.exempt_namespaces, request.namespace, "namespace"),
            (self._config.exempt_usernames, request.user.name, "user"),
        ):
            if value in listed:
                request.annotate("exempt", why)
                return True
        return False

    async def _policy_of(self, request: AdmissionRequest) -> tuple[Policy, Sequence[Any]]:
        namespace = await self._lookup.get("namespaces", request.namespace)
        if namespace is None:
            raise InternalError(f'Internal error occurred: failed to lookup namespace "{request.namespace}"')
        policy, errors = podsecurity.parse_labels(labels(namespace), self._defaults)
        if errors:
            request.annotate("error", "Failed to parse policy: " + "; ".join(str(e) for e in errors))
        return policy, errors

    def _evaluate(
        self,
        request: AdmissionRequest,
        policy: Policy,
        metadata: Mapping[str, Any] | None,
        spec: Mapping[str, Any],
        *,
        enforce: bool,
    ) -> None:
        if spec.get("runtimeClassName") in self._config.exempt_runtime_classes:
            request.annotate("exempt", "runtimeClass")
            return
        found: dict[LevelVersion, str] = {}

        def wrong(level: LevelVersion) -> str:
            if level not in found:
                found[level] = podsecurity.details(podsecurity.violations(level, metadata, spec))
            return found[level]

        if wrong(policy.audit):
            text = f'would violate PodSecurity "{policy.audit}": {wrong(policy.audit)}'
            request.annotate("audit-violations", text)
        if enforce:
            request.annotate("enforce-policy", str(policy.enforce))
            if wrong(policy.enforce):
                text = f'violates PodSecurity "{policy.enforce}": {wrong(policy.enforce)}'
                raise Forbidden.of("pods", request.shown_name, text)
        if wrong(policy.warn):
            request.warnings.append(f'would violate PodSecurity "{policy.warn}": {wrong(policy.warn)}')

    # --- namespaces ---------------------------------------------------------------------------

    async def _namespace(self, request: AdmissionRequest) -> None:
        given = labels(request.object)
        policy, errors = podsecurity.parse_labels(given, self._defaults)
        name = request.object["metadata"]["name"]
        if request.operation == CREATE:
            if errors:
                raise Invalid.of("Namespace", name, errors)
            self._warn_if_exempt(request, policy, given)
            return
        before, old_errors = podsecurity.parse_labels(labels(request.old or {}), self._defaults)
        # Labels that were wrong before may stay so: other changes must go through.
        if errors and errors != old_errors:
            raise Invalid.of("Namespace", name, errors)
        new, old = policy.enforce, before.enforce
        if new.level == Level.PRIVILEGED or (new.version == old.version and new.level <= old.level):
            return
        if not self._warn_if_exempt(request, policy, given):
            request.warnings += await self._existing(name, new)

    def _warn_if_exempt(self, request: AdmissionRequest, policy: Policy, given: Mapping[str, str]) -> bool:
        name = request.object["metadata"]["name"]
        if name not in self._config.exempt_namespaces:
            return False
        if not policy.privileged and not policy.equivalent(self._defaults):
            shown = ", ".join(
                f"{mode}={level}"
                for mode in MODES
                if (level := getattr(policy, mode)).level != Level.PRIVILEGED
                and (PREFIX + mode in given or f"{PREFIX}{mode}-version" in given)
            )
            text = f'namespace "{name}" is exempt from Pod Security, and the policy ({shown}) will be ignored'
            request.warnings.append(text)
        return True

    async def _existing(self, namespace: str, level: LevelVersion) -> list[str]:
        """Warnings of pods that are there already and would be refused now."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _CHECK_S_MAX
        pods = self._most_telling(await self._lookup.list("pods", namespace))
        bad: dict[str, list[str]] = {}
        checked = 0
        for pod in pods[:_PODS_CHECKED_MAX]:
            if checked % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
                if loop.time() > deadline:
                    break
            checked += 1
            found = podsecurity.violations(level, pod["metadata"], pod["spec"])
            if found:
                bad.setdefault(podsecurity.reasons(found), []).append(pod["metadata"]["name"])
        warnings = []
        if checked < len(pods):
            text = "new PodSecurity enforce level only checked against the first"
            warnings.append(f"{text} {checked} of {len(pods)} existing pods")
        if bad:
            warnings.append(
                f'existing pods in namespace "{namespace}" violate the new PodSecurity enforce level "{level}"'
            )
        return warnings + sorted(f"{_some(names)}: {reason}" for reason, names in bad.items())

    def _most_telling(self, pods: Sequence[Object]) -> list[Object]:
        """Pods without a controller and one of each controller first, then the rest, which will be alike."""
        first: list[Object] = []
        rest: list[Object] = []
        seen: set[str] = set()
        for pod in pods:
            if pod["spec"].get("runtimeClassName") in self._config.exempt_runtime_classes:
                continue
            owners = pod["metadata"].get("ownerReferences") or ()
            owner = next((o.get("uid") or "" for o in owners if o.get("controller")), "")
            (rest if owner in seen else first).append(pod)
            if owner:
                seen.add(owner)
        return first + rest


def _some(names: Sequence[str]) -> str:
    others = len(names) - 1
    if not others:
        return names[0]
    return f"{min(names)} (and {others} other pod{'s' if others > 1 else ''})"


def _matters(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Whether an update of a pod changes what it runs: other fields cannot make it less secure."""
    for field in ("containers", "initContainers"):
        images = [[c.get("image") for c in spec.get(field) or ()] for spec in (new, old)]
        if images[0] != images[1]:
            return True
    known = old.get("ephemeralContainers") or ()
    return any(container not in known for container in new.get("ephemeralContainers") or ())
