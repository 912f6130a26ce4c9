"""The file as a whole: decoded strictly, checked field by field, and made into profiles. Pure.

What kube-scheduler would not start with is refused, and every fault is named with its path. What is right but has no
effect here is taken and noted: `Configuration.notes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from rayplane.control_plane.api.config_files import ConfigFileError, read_document
from rayplane.control_plane.api.errors import FieldError, duplicate, forbidden, invalid, not_supported, required
from rayplane.control_plane.api.machinery.strict import DecodeError, conform, strict_errors, strict_message
from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.scheduler.config import DEVICES, Profile, SchedulerConfig
from rayplane.control_plane.scheduler.configuration import points, schema
from rayplane.control_plane.scheduler.configuration.arguments import in_range, read_arguments, span
from rayplane.control_plane.scheduler.configuration.extenders import read_extenders, with_ignored
from rayplane.control_plane.scheduler.extenders import Extender
from rayplane.control_plane.scheduler.groups import GANGS
from rayplane.control_plane.scheduler.pods import DEFAULT_SCHEDULER
from rayplane.control_plane.timings import ElectionTiming

PROFILES_MAX: Final = 64
_LEASES: Final = "leases"
#: Fields that say how kube-scheduler does its work, and what stands in their place.
_IDLE: Final = {
    "parallelism": "one cycle looks at all nodes at once",
    "percentageOfNodesToScore": "all nodes are looked at",
    "clientConnection": "the scheduler is given its servers and its certificate by the cluster",
    "enableProfiling": "see /debug and /metrics of the component",
    "enableContentionProfiling": "there is one thread, and no locks",
    "delayCacheUntilActive": "a replica that does not lead never fills its caches",
}
_ELECTION_IDLE: Final = {
    "leaderElect": "replicas always elect the one that schedules",
    "resourceName": "the Lease is kube-scheduler",
    "resourceNamespace": "the Lease is in kube-system",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """The meaning of a KubeSchedulerConfiguration here."""

    profiles: tuple[Profile, ...]
    backoff: Backoff
    extenders: tuple[Extender, ...] = ()
    election: ElectionTiming | None = None
    """None: as the cluster's timing has it."""
    notes: tuple[str, ...] = field(default=())
    """Fields that are given and have no effect, each with the reason."""

    def applied(self, config: SchedulerConfig) -> SchedulerConfig:
        """A scheduler's settings as this file wants them."""
        return replace(
            config,
            profiles=self.profiles,
            extenders=self.extenders,
            backoff=self.backoff,
            election=self.election or config.election,
        )


def read_configuration(text: str, others: points.Points | None = None) -> Configuration:
    """The configuration that a file describes. `others`: the plug-ins that are there beside Kubernetes' own, with the
    extension points they have. ConfigFileError.
    """
    errors: list[FieldError] = []
    document = read_document(text, schema.KIND, [schema.VERSION], errors)
    if errors:
        raise ConfigFileError.of(errors)
    _conform(document, schema.CONFIGURATION, "")
    notes = [f"{key} changes nothing: {why}" for key, why in _IDLE.items() if document.get(key) not in (None, {})]
    in_range(document.get("percentageOfNodesToScore") or 0, 0, 100, "percentageOfNodesToScore", errors)
    if document.get("parallelism") is not None and document["parallelism"] <= 0:
        text = "should be an integer value greater than zero"
        errors.append(invalid("parallelism", document["parallelism"], text))
    known = {**points.IN_TREE, **(others or {})}
    extenders = document.get("extenders") or ()
    profiles = _profiles(document.get("profiles") or [{}], known, errors, notes)
    found = Configuration(
        profiles=tuple(with_ignored(profile, extenders) for profile in profiles),
        extenders=read_extenders(extenders, errors),
        backoff=_backoff(document, errors),
        election=_election(document.get("leaderElection") or {}, errors, notes),
        notes=tuple(notes),
    )
    if errors:
        raise ConfigFileError.of(errors)
    return found


def _conform(value: dict[str, Any], definition: Any, path: str) -> None:
    """Types and field names are as they should be, or the file is refused at once."""
    try:
        unknown = conform(value, definition)
    except DecodeError as e:
        raise ConfigFileError(f"{path}: {e}" if path else str(e)) from e
    if unknown:
        raise ConfigFileError(strict_message(strict_errors([f"{path}.{u}" if path else u for u in unknown], [])))


def _backoff(given: Mapping[str, Any], errors: list[FieldError]) -> Backoff:
    first, most = given.get("podInitialBackoffSeconds"), given.get("podMaxBackoffSeconds")
    first, most = 1 if first is None else first, 10 if most is None else most
    if first <= 0:
        errors.append(invalid("podInitialBackoffSeconds", first, "must be greater than 0"))
    elif most < first:
        text = "must be greater than or equal to PodInitialBackoffSeconds"
        errors.append(invalid("podMaxBackoffSeconds", most, text))
    else:
        return Backoff(float(first), float(most))
    return Backoff(1.0, 10.0)


def _election(given: Mapping[str, Any], errors: list[FieldError], notes: list[str]) -> ElectionTiming | None:
    path = "leaderElection"
    usual = {"leaderElect": True, "resourceName": "kube-scheduler", "resourceNamespace": "kube-system"}
    for key, why in _ELECTION_IDLE.items():
        if given.get(key) not in (None, usual[key]):
            notes.append(f"{path}.{key} changes nothing: {why}")
    if given.get("resourceLock") not in (None, "", _LEASES):
        errors.append(invalid(f"{path}.resourceLock", given["resourceLock"], 'resourceLock value must be "leases"'))
    spans = ("leaseDuration", "renewDeadline", "retryPeriod")
    if not any(given.get(part) is not None for part in spans):
        return None
    lease, renew, retry = (
        span(given, part, path, errors, default=usual_s) for part, usual_s in zip(spans, (15.0, 10.0, 2.0), strict=True)
    )
    if not lease > renew:
        errors.append(invalid(f"{path}.leaseDuration", lease, "LeaseDuration must be greater than RenewDeadline"))
    elif not renew > retry > 0:
        errors.append(
            invalid(f"{path}.renewDeadline", renew, "RenewDeadline must be greater than RetryPeriod, above 0")
        )
    else:
        return ElectionTiming(lease, renew, retry)
    return None


def _profiles(
    given: Sequence[Mapping[str, Any]], known: points.Points, errors: list[FieldError], notes: list[str]
) -> tuple[Profile, ...]:
    if len(given) > PROFILES_MAX:
        errors.append(forbidden("profiles", f"at most {PROFILES_MAX} profiles"))
        return ()
    found: dict[str, Profile] = {}
    sorts: str | None = None
    for at, one in enumerate(given):
        path = f"profiles[{at}]"
        name = one.get("schedulerName") or ("" if len(given) > 1 else DEFAULT_SCHEDULER)
        if not name:
            errors.append(required(f"{path}.schedulerName"))
        elif name in found:
            errors.append(duplicate(f"{path}.schedulerName", name))
        if one.get("percentageOfNodesToScore") is not None:
            notes.append(f"{path}.percentageOfNodesToScore changes nothing: {_IDLE['percentageOfNodesToScore']}")
            in_range(one["percentageOfNodesToScore"], 0, 100, f"{path}.percentageOfNodesToScore", errors)
        asked = points.expand(one.get("plugins") or {}, f"{path}.plugins", known, errors)
        notes += _without_effect(asked, f"{path}.plugins")
        first = next((plugin for plugin, _ in asked["queueSort"]), "")
        if sorts is not None and first != sorts:
            errors.append(invalid(f"{path}.plugins.queueSort", first, "must be the same for all profiles"))
        sorts = first
        arguments = _arguments(one.get("pluginConfig") or (), f"{path}.pluginConfig", known, errors, notes)
        found[name] = _profile(name, asked, arguments)
    return tuple(found.values())


def _without_effect(asked: Mapping[str, Sequence[points.Weighted]], path: str) -> list[str]:
    """Points where a plug-in that is in use is not asked, though it works there all the same, or the reverse."""
    names = {point: {plugin for plugin, _ in plugins} for point, plugins in asked.items()}
    return [
        f"{path}.{point} changes nothing for {plugin}: it is switched on and off at {main}"
        for plugin, main, idle in points.IDLE
        for point in idle
        if (plugin in names[main]) != (plugin in names[point])
    ]


def _profile(name: str, asked: Mapping[str, Sequence[points.Weighted]], arguments: Mapping[str, Any]) -> Profile:
    others = {
        point: tuple(plugin for plugin, _ in plugins if plugin not in points.IN_TREE)
        for point, plugins in asked.items()
    }
    return Profile(
        name=name,
        filters=tuple(plugin for plugin, _ in asked["filter"]),
        scores=tuple(asked["score"]),
        args=arguments,
        preempts=any(plugin == "DefaultPreemption" for plugin, _ in asked["postFilter"]),
        deallocates=any(plugin == DEVICES for plugin, _ in asked["postFilter"]),
        gates=any(plugin == "SchedulingGates" for plugin, _ in asked["preEnqueue"]),
        gangs=any(plugin == GANGS for plugin, _ in asked["preEnqueue"]),
        binds=any(plugin == "DefaultBinder" for plugin, _ in asked["bind"]),
        others={point: plugins for point, plugins in others.items() if plugins},
    )


def _arguments(
    given: Sequence[Mapping[str, Any]], path: str, known: points.Points, errors: list[FieldError], notes: list[str]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for at, one in enumerate(given):
        plugin, args, where = one.get("name") or "", one.get("args") or {}, f"{path}[{at}]"
        if not isinstance(args, dict):
            errors.append(invalid(f"{where}.args", args, "must be an object"))
        elif plugin in found:
            errors.append(duplicate(where, plugin))
        elif plugin not in known:
            errors.append(not_supported(f"{where}.name", plugin, sorted(known)))
        elif plugin not in points.IN_TREE:
            found[plugin] = args
        elif plugin not in schema.ARGUMENTS:
            errors.append(forbidden(f"{where}.args", f"{plugin} takes no arguments"))
        else:
            _conform(args, schema.ARGUMENTS[plugin], f"{where}.args")
            for key, right in (("apiVersion", schema.VERSION), ("kind", f"{plugin}Args")):
                if args.get(key) not in (None, "", right):
                    errors.append(invalid(f"{where}.args.{key}", args[key], f"has to match plugin args: {right}"))
            found[plugin] = read_arguments(plugin, args, f"{where}.args", errors, notes)
    return {plugin: args for plugin, args in found.items() if args is not None}
