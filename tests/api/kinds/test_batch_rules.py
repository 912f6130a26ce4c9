"""Rules of jobs and cron jobs: what is refused when they are made, changed and reported on, in Kubernetes' words."""

import copy
from typing import Any

import pytest

from rayplane.control_plane.api.kinds.batch.job_indexes import IndexesError, count_indexes, first_shared
from rayplane.control_plane.api.kinds.registry import rules_of
from tests.api.kinds.changes import GONE, Case, Changes, created, refused, status_refused, updated

POD: dict[str, Any] = {"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Never"}
JOB: dict[str, Any] = {"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": {"spec": POD}}}
INDEXED = {**JOB, "spec": {"template": {"spec": POD}, "completionMode": "Indexed", "completions": 5, "parallelism": 5}}
CRON: dict[str, Any] = {
    "apiVersion": "batch/v1",
    "kind": "CronJob",
    "spec": {"schedule": "*/5 * * * *", "jobTemplate": {"spec": {"template": {"spec": POD}}}},
}
NEGATIVE = "must be greater than or equal to 0"
NEEDS_INDEXES = "requires indexed completion mode"
RULES = "spec.podFailurePolicy.rules"
CODES = {"operator": "In", "values": [1]}


def failure(*rules: dict[str, Any], **more: Any) -> Changes:
    return {"spec.podFailurePolicy": {"rules": list(rules)}, **{f"spec.{k}": v for k, v in more.items()}}


def exit_codes(**fields: Any) -> Changes:
    return failure({"action": "FailJob", "onExitCodes": {**CODES, **fields}})


def success(*rules: dict[str, Any]) -> Changes:
    return {"spec.successPolicy": {"rules": list(rules)}}


ACTIONS = '"Count" "FailIndex" "FailJob" "Ignore"'
HIGH = "must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index"
JOBS: list[Case] = [
    *(({f"spec.{field}": -1}, [f"spec.{field}: Invalid value: -1: {NEGATIVE}"])
      for field in ("parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished")),
    ({"spec.template.spec.restartPolicy": "Always"},
     ['spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"']),
    ({"spec.template.spec.restartPolicy": GONE},
     ['spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"']),
    ({"spec.completionMode": "Sorted"},
     ['spec.completionMode: Unsupported value: "Sorted": supported values: "NonIndexed", "Indexed"']),
    ({"spec.completionMode": "Indexed", "spec.parallelism": 1},
     ["spec.completions: Required value: when completion mode is Indexed"]),
    ({"spec.backoffLimitPerIndex": 1}, [f"spec.backoffLimitPerIndex: Invalid value: 1: {NEEDS_INDEXES}"]),
    ({"spec.maxFailedIndexes": 1},
     ["spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified",
      f"spec.maxFailedIndexes: Invalid value: 1: {NEEDS_INDEXES}"]),
    ({"spec.managedBy": "acme.io/runner"}, []),
    ({"spec.managedBy": "acme"},
     ['spec.managedBy: Invalid value: "acme": must be a domain-prefixed path (such as "acme.io/foo")']),
    ({"spec.managedBy": ""}, ["spec.managedBy: Required value"]),
    ({"spec.managedBy": "a.io/" + "x" * 63}, ["spec.managedBy: Too long: may not be more than 63 bytes"]),
    ({"spec.podReplacementPolicy": "Soon"},
     ['spec.podReplacementPolicy: Unsupported value: "Soon": supported values: "Failed", "TerminatingOrFailed"']),
    ({"spec.suspend": True, "spec.podReplacementPolicy": "Failed"}, []),
    # --- failures
    (failure({"action": "FailJob", "onExitCodes": CODES}), []),
    (failure({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}), []),
    (failure({"onExitCodes": CODES}), [f"{RULES}[0].action: Required value: valid values: [{ACTIONS}]"]),
    (failure({"action": "Cry", "onExitCodes": CODES}),
     [f'{RULES}[0].action: Unsupported value: "Cry": supported values: "Count", "FailIndex", "FailJob", "Ignore"']),
    (failure({"action": "FailIndex", "onExitCodes": CODES}),
     [f'{RULES}[0].action: Invalid value: "FailIndex": requires the backoffLimitPerIndex to be set']),
    (failure({"action": "Count"}),
     [f"{RULES}[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required"]),
    (failure({"action": "Count", "onExitCodes": CODES, "onPodConditions": [{"type": "T"}]}),
     [f"{RULES}[0]: Invalid value: specifying both OnExitCodes and OnPodConditions is not supported"]),
    (failure(*[{"action": "Count", "onExitCodes": CODES}] * 21),
     [f"{RULES}: Too many: 21: must have at most 20 items"]),
    (failure({"action": "FailJob", "onExitCodes": CODES}, podReplacementPolicy="TerminatingOrFailed"),
     ['spec.podReplacementPolicy: Unsupported value: "TerminatingOrFailed": supported values: "Failed"']),
    ({**failure({"action": "FailJob", "onExitCodes": CODES}), "spec.template.spec.restartPolicy": "OnFailure"},
     ['spec.template.spec.restartPolicy: Invalid value: "OnFailure": only "Never" is supported when podFailurePolicy '
      "is specified"]),
    (exit_codes(operator=""), [f'{RULES}[0].onExitCodes.operator: Required value: valid values: ["In" "NotIn"]']),
    (exit_codes(operator="Out"),
     [f'{RULES}[0].onExitCodes.operator: Unsupported value: "Out": supported values: "In", "NotIn"']),
    (exit_codes(values=[]), [f"{RULES}[0].onExitCodes.values: Invalid value: []: at least one value is required"]),
    (exit_codes(values=[0]),
     [f"{RULES}[0].onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In operator"]),
    (exit_codes(values=[0], operator="NotIn"), []),
    (exit_codes(values=[1, 1]), [f"{RULES}[0].onExitCodes.values[1]: Duplicate value: 1"]),
    (exit_codes(values=[2, 1]), [f"{RULES}[0].onExitCodes.values: Invalid value: [2,1]: must be ordered"]),
    (exit_codes(values=list(range(1, 257))),
     [f"{RULES}[0].onExitCodes.values: Too many: 256: must have at most 255 items"]),
    (exit_codes(containerName="c"), []),
    (exit_codes(containerName="d"),
     [f'{RULES}[0].onExitCodes.containerName: Invalid value: "d": must be one of the container or initContainer names '
      "in the pod template"]),
    (failure({"action": "Count", "onPodConditions": [{"type": "T", "status": "Maybe"}]}),
     [f'{RULES}[0].onPodConditions[0].status: Unsupported value: "Maybe": supported values: "False", "True", '
      '"Unknown"']),
    (failure({"action": "Count", "onPodConditions": [{"type": "T"}] * 21}),
     [f"{RULES}[0].onPodConditions: Too many: 21: must have at most 20 items"]),
    # --- selectors
    ({"spec.template.metadata": {"labels": {"job-name": "other"}}},
     ['spec.template.metadata.labels[job-name]: Invalid value: {"batch.kubernetes.io/controller-uid":"u",'
      '"batch.kubernetes.io/job-name":"x","controller-uid":"u","job-name":"other"}: must be \'x\'']),
    ({"spec.selector": {"matchLabels": {"a": "b"}}},
     ['spec.selector: Invalid value: {"matchLabels":{"a":"b","batch.kubernetes.io/controller-uid":"u"}}: `selector` '
      "not auto-generated",
      'spec.template.metadata.labels: Invalid value: {"batch.kubernetes.io/controller-uid":"u",'
      '"batch.kubernetes.io/job-name":"x","controller-uid":"u","job-name":"x"}: `selector` does not match template '
      "`labels`"]),
    ({"spec.manualSelector": True}, ["spec.selector: Required value",
      "spec.template.metadata.labels: Invalid value: {}: `selector` does not match template `labels`"]),
    ({"spec.manualSelector": True, "spec.selector": {"matchLabels": {"a": "b"}},
      "spec.template.metadata": {"labels": {"a": "b"}}}, []),
]  # fmt: skip
INDEXED_JOBS: list[Case] = [
    ({}, []),
    ({"spec.backoffLimitPerIndex": 1, "spec.maxFailedIndexes": 5}, []),
    ({"spec.backoffLimitPerIndex": 1, "spec.maxFailedIndexes": 6},
     ["spec.maxFailedIndexes: Invalid value: 6: must be less than or equal to completions"]),
    ({"spec.parallelism": 100_001},
     ["spec.parallelism: Invalid value: 100001: must be less than or equal to 100000 when completion mode is Indexed"]),
    ({"spec.completions": 100_001, "spec.backoffLimitPerIndex": 1},
     ["spec.maxFailedIndexes: Required value: must be specified when completions is above 100000"]),
    ({"spec.completions": 100_001, "spec.backoffLimitPerIndex": 1, "spec.maxFailedIndexes": 10_001,
      "spec.parallelism": 10_001},
     [f"spec.parallelism: Invalid value: 10001: {HIGH}", f"spec.maxFailedIndexes: Invalid value: 10001: {HIGH}"]),
    ({**failure({"action": "FailIndex", "onExitCodes": CODES}), "spec.backoffLimitPerIndex": 0}, []),
    ({"metadata.name": "n" * 62},
     [f'metadata.name: Invalid value: "{"n" * 62}": will not able to create pod with invalid DNS label: {"n" * 62}-4']),
    (success({"succeededIndexes": "0-2,4", "succeededCount": 2}), []),
    (success({"succeededCount": 5}), []),
    (success(),
     ["spec.successPolicy.rules: Required value: at least one rules must be specified when the successPolicy is "
      "specified"]),
    (success({}),
     ["spec.successPolicy.rules[0]: Required value: at least one of succeededCount or succeededIndexes must be "
      "specified"]),
    (success(*[{"succeededCount": 1}] * 21), ["spec.successPolicy.rules: Too many: 21: must have at most 20 items"]),
    (success({"succeededCount": 6}),
     ["spec.successPolicy.rules[0].succeededCount: Invalid value: 6: must be less than or equal to 5 (the number of "
      "specified completions)"]),
    (success({"succeededIndexes": "1,3", "succeededCount": 3}),
     ["spec.successPolicy.rules[0].succeededCount: Invalid value: 3: must be less than or equal to 2 (the number of "
      "indexes in the specified succeededIndexes field)"]),
    *((success({"succeededIndexes": text}),
       [f'spec.successPolicy.rules[0].succeededIndexes: Invalid value: "{text}": error parsing succeededIndexes: '
        f"{problem}"])
      for text, problem in (
          ("a", 'cannot convert string to integer for index: "a"'),
          ("5", 'too large index: "5"'),
          ("1-5", 'too large index: "5"'),
          ("3,1", "non-increasing order, previous: 3, current: 1"),
          ("2-2", "non-increasing order, previous: 2, current: 2"),
          ("1-2-3", 'the fragment "1-2-3" violates the requirement that an index interval can have at most two parts '
                    "separated by '-'"),
      )),
]  # fmt: skip
CRONS: list[Case] = [
    ({"spec.schedule": GONE}, ["spec.schedule: Required value"]),
    ({"spec.schedule": "* * *"},
     ['spec.schedule: Invalid value: "* * *": expected exactly 5 fields, found 3: [* * *]']),
    ({"spec.schedule": "TZ=UTC 0 * * * *"},
     ['spec.schedule: Invalid value: "TZ=UTC 0 * * * *": cannot use TZ or CRON_TZ in schedule, use timeZone field '
      "instead"]),
    ({"spec.schedule": "@hourly", "spec.timeZone": "Europe/Berlin"}, []),
    ({"spec.timeZone": ""}, ['spec.timeZone: Invalid value: "": timeZone must be nil or non-empty string']),
    ({"spec.timeZone": "Mars/Base"}, ['spec.timeZone: Invalid value: "Mars/Base": unknown time zone Mars/Base']),
    ({"spec.timeZone": "Local"},
     ['spec.timeZone: Invalid value: "Local": timeZone must be an explicit time zone as defined in '
      "https://www.iana.org/time-zones"]),
    ({"spec.concurrencyPolicy": "Maybe"},
     ['spec.concurrencyPolicy: Unsupported value: "Maybe": supported values: "Allow", "Forbid", "Replace"']),
    *(({f"spec.{field}": -1}, [f"spec.{field}: Invalid value: -1: {NEGATIVE}"])
      for field in ("startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit")),
    ({"spec.jobTemplate.spec.selector": {"matchLabels": {"a": "b"}}},
     ['spec.jobTemplate.spec.selector: Invalid value: {"matchLabels":{"a":"b"}}: `selector` will be auto-generated']),
    ({"spec.jobTemplate.spec.manualSelector": True},
     ['spec.jobTemplate.spec.manualSelector: Unsupported value: true: supported values: "nil", "false"']),
    ({"spec.jobTemplate.spec.manualSelector": False}, []),
    ({"spec.jobTemplate.spec.parallelism": -1},
     [f"spec.jobTemplate.spec.parallelism: Invalid value: -1: {NEGATIVE}"]),
    ({"spec.jobTemplate.spec.template.spec.restartPolicy": "Always"},
     ['spec.jobTemplate.spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"']),
    ({"metadata.name": "n" * 53}, [f'metadata.name: Invalid value: "{"n" * 53}": must be no more than 52 characters']),
    ({"metadata.name": "n" * 52}, []),
    ({"spec.jobTemplate.spec.podFailurePolicy": {"rules": [{"action": "Ignore", "onPodConditions": [{"type": "T"}]}]}},
     []),
]  # fmt: skip
ALL = [
    *((JOB, *case) for case in JOBS),
    *((INDEXED, *case) for case in INDEXED_JOBS),
    *((CRON, *case) for case in CRONS),
]


@pytest.mark.parametrize(("good", "changes", "found"), ALL, ids=[f"{i}-{c[0]['kind']}" for i, c in enumerate(ALL)])
def test_what_is_wrong_with_new_ones(good: Any, changes: Changes, found: list[str]) -> None:
    assert refused(good, changes) == found


IMMUTABLE = "field is immutable"
SUSPENDED = {"spec.suspend": True}
MOVED: list[Changes] = [
    {"spec.template.spec.nodeSelector": {"a": "b"}},
    {"spec.template.spec.tolerations": [{"operator": "Exists"}]},
    {"spec.template.spec.schedulingGates": [{"name": "a.io/g"}]},
    {"spec.template.metadata.annotations": {"a": "b"}},
    {"spec.template.spec.affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]}}}},
    {"spec.template.spec.containers.0.resources": {"requests": {"cpu": "2"}}},
]  # fmt: skip
UPDATES: list[tuple[Any, Changes, Changes, list[str]]] = [
    (JOB, {}, {"spec.parallelism": 3, "spec.suspend": True, "spec.backoffLimit": 1, "spec.activeDeadlineSeconds": 9,
               "spec.ttlSecondsAfterFinished": 5}, []),
    (JOB, {}, {"spec.completions": 2}, [f"spec.completions: Invalid value: 2: {IMMUTABLE}"]),
    (INDEXED, {}, {"spec.completions": 7, "spec.parallelism": 7}, []),
    (INDEXED, {}, {"spec.completions": 7},
     ["spec.completions: Invalid value: 7: can only be modified in tandem with spec.parallelism"]),
    (JOB, {}, {"spec.managedBy": "a.io/b"}, [f'spec.managedBy: Invalid value: "a.io/b": {IMMUTABLE}']),
    (INDEXED, {}, {"spec.backoffLimitPerIndex": 1},
     [f"spec.backoffLimitPerIndex: Invalid value: 1: {IMMUTABLE}"]),
    (INDEXED, {}, success({"succeededCount": 1}),
     [f'spec.successPolicy: Invalid value: {{"rules":[{{"succeededCount":1}}]}}: {IMMUTABLE}']),
    (JOB, {}, {"spec.podReplacementPolicy": "Failed"}, []),
    *((JOB, SUSPENDED, moved, []) for moved in MOVED),
    (CRON, {}, {"spec.schedule": "@daily", "spec.suspend": True}, []),
    (CRON, {}, {"spec.timeZone": "Mars/Base"},
     ['spec.timeZone: Invalid value: "Mars/Base": unknown time zone Mars/Base']),
]  # fmt: skip


@pytest.mark.parametrize(("good", "before", "changes", "found"), UPDATES)
def test_what_is_wrong_with_changes(good: Any, before: Changes, changes: Changes, found: list[str]) -> None:
    assert updated(good, before, changes)[1] == found


@pytest.mark.parametrize("moved", [*MOVED, {"spec.template.spec.containers.0.image": "j"}])
def test_a_job_that_is_not_suspended_stays_where_it_is(moved: Changes) -> None:
    [found] = updated(JOB, {}, moved)[1]
    assert found.startswith("spec.template: Invalid value: ") and found.endswith(IMMUTABLE)


def test_a_suspended_job_keeps_what_it_does() -> None:
    affinity: dict[str, Any] = {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
    for path, value in (("containers.0.image", "j"), ("affinity", affinity), ("serviceAccountName", "a")):
        [found] = updated(JOB, SUSPENDED, {f"spec.template.spec.{path}": value})[1]
        assert found.endswith(IMMUTABLE), path


@pytest.mark.parametrize(
    ("status", "moves"),
    [
        ({"startTime": "2026-01-01T00:00:00Z", "active": 0}, False),
        ({"startTime": "2026-01-01T00:00:00Z", "conditions": [{"type": "Suspended", "status": "True"}]}, True),
        ({"startTime": "2026-01-01T00:00:00Z", "active": 1, "conditions": [{"type": "Suspended", "status": "True"}]},
         False),
    ],
)  # fmt: skip
def test_a_job_that_ran_moves_when_its_pods_are_gone(status: dict[str, Any], moves: bool) -> None:
    old = created(JOB, SUSPENDED)[0] | {"status": status}
    new = copy.deepcopy(old)
    new["spec"]["template"]["spec"]["nodeSelector"] = {"a": "b"}
    assert (rules_of("batch", "Job").validate_update(new, old) == []) == moves


def test_a_kept_zone_and_a_long_name_are_no_reason_to_refuse_a_change() -> None:
    old = created(CRON, {})[0]
    old["spec"]["timeZone"], old["metadata"]["name"] = "Mars/Base", "n" * 60
    new = {**old, "spec": {**old["spec"], "suspend": True}}
    assert rules_of("batch", "CronJob").validate_update(new, old) == []


START, END = "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"


def conditions(*types: str) -> list[dict[str, str]]:
    return [{"type": kind, "status": "True"} for kind in types]


DONE = {"startTime": START, "completionTime": END, "conditions": conditions("SuccessCriteriaMet", "Complete")}
FAILED = {"startTime": START, "conditions": conditions("FailureTarget", "Failed")}
STATUSES: list[tuple[Any, dict[str, Any], dict[str, Any], list[str]]] = [
    (JOB, {}, DONE, []),
    (JOB, {}, FAILED, []),
    (JOB, {}, {"active": -1, "failed": -1},
     [f"status.active: Invalid value: -1: {NEGATIVE}", f"status.failed: Invalid value: -1: {NEGATIVE}",
      "status.ready: Invalid value: 0: cannot set more ready pods than active",
      "status.failed: Invalid value: -1: cannot decrease the failed counter"]),
    (JOB, {}, {"uncountedTerminatedPods": {"succeeded": ["a", ""], "failed": ["a"]}},
     ['status.uncountedTerminatedPods.succeeded[1]: Invalid value: "": must not be empty',
      'status.uncountedTerminatedPods.failed[0]: Duplicate value: "a"']),
    (JOB, {}, {"startTime": START, "conditions": conditions("Complete")},
     ["status.completionTime: Required value: completionTime is required for Complete jobs",
      "status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true "
      "condition"]),
    (JOB, {}, {"startTime": START, "conditions": conditions("Failed")},
     ["status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition"]),
    (JOB, {}, {"completionTime": END},
     [f'status.completionTime: Invalid value: "{END}": cannot set completionTime when there is no Complete=True '
      "condition"]),
    (JOB, {}, {**DONE, "startTime": "2026-01-01T02:00:00Z"},
     [f'status.completionTime: Invalid value: "{END}": completionTime cannot be set before startTime']),
    (JOB, {}, {**DONE, "active": 1}, ["status.active: Invalid value: 1: active>0 is invalid for finished job"]),
    (JOB, {}, {**FAILED, "startTime": None},
     ["status.startTime: Required value: startTime is required for finished job"]),
    (JOB, {}, {**DONE, "terminating": 1},
     ["status.terminating: Invalid value: 1: terminating>0 is invalid for finished job"]),
    (JOB, {}, {"active": 1, "ready": 2}, ["status.ready: Invalid value: 2: cannot set more ready pods than active"]),
    (JOB, {}, {"completedIndexes": "0"},
     ['status.completedIndexes: Invalid value: "0": cannot set non-empty completedIndexes when non-indexed completion '
      "mode"]),
    (JOB, {}, {"failedIndexes": ""},
     ['status.failedIndexes: Invalid value: "": cannot set non-null failedIndexes when backoffLimitPerIndex is null']),
    (INDEXED, {}, {"completedIndexes": "0-2,4"}, []),
    (INDEXED, {}, {"completedIndexes": "4,2"},
     ['status.completedIndexes: Invalid value: "4,2": error parsing completedIndexes: non-increasing order, previous: '
      "4, current: 2"]),
    (JOB, DONE, {**DONE, "conditions": conditions("SuccessCriteriaMet"), "completionTime": None},
     ["status.conditions: Invalid value: cannot disable the terminal Complete=True condition"]),
    (JOB, DONE, {**DONE, "completionTime": "2026-01-01T03:00:00Z"},
     ['status.completionTime: Invalid value: "2026-01-01T03:00:00Z": completionTime cannot be mutated']),
    (JOB, {"failed": 2, "succeeded": 2}, {"failed": 1, "succeeded": 1},
     ["status.failed: Invalid value: 1: cannot decrease the failed counter",
      "status.succeeded: Invalid value: 1: cannot decrease the succeeded counter"]),
    (INDEXED, {"succeeded": 2}, {"succeeded": 1}, []),
    (JOB, {"startTime": START}, {},
     ["status.startTime: Required value: startTime cannot be removed for unsuspended job"]),
    (JOB, {}, {**DONE, "conditions": conditions("SuccessCriteriaMet", "Complete", "FailureTarget")},
     ["status.conditions: Invalid value: cannot set Complete=True and FailureTarget=true conditions",
      "status.conditions: Invalid value: cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"]),
]  # fmt: skip


@pytest.mark.parametrize(("good", "before", "after", "found"), STATUSES)
def test_what_is_wrong_with_statuses(
    good: Any, before: dict[str, Any], after: dict[str, Any], found: list[str]
) -> None:
    assert status_refused(good, before, after) == found


def test_indexes_that_failed_did_not_succeed() -> None:
    good = {**INDEXED, "spec": {**INDEXED["spec"], "backoffLimitPerIndex": 1}}
    assert status_refused(good, {}, {"completedIndexes": "0,3", "failedIndexes": "1-2"}) == []
    assert status_refused(good, {}, {"completedIndexes": "0-1,3", "failedIndexes": "1-2"}) == [
        'status.failedIndexes: Invalid value: "1-2": failedIndexes and completedIndexes overlap at index: 1'
    ]


def test_indexes_are_read_as_numbers_however_long_they_are() -> None:
    assert count_indexes("", 3) == 0 and count_indexes("0-2,4", 5) == 4
    assert count_indexes("0" * 10_000 + "1", 3) == 1
    with pytest.raises(IndexesError, match="cannot convert"):
        count_indexes("9" * 10_000, 3)
    assert first_shared("x,3", "0-3", 5) == 3 and first_shared("0", "", 5) is None


def test_what_is_filled_in() -> None:
    spec = created(JOB, {})[0]["spec"]
    assert (spec["completions"], spec["parallelism"], spec["backoffLimit"]) == (1, 1, 6)
    assert spec["manualSelector"] is False and spec["completionMode"] == "NonIndexed"
    spec = created(INDEXED, {**failure({"action": "FailJob", "onExitCodes": CODES}), "spec.backoffLimitPerIndex": 1})[0]
    assert spec["spec"]["backoffLimit"] == 2**31 - 1 and spec["spec"]["podReplacementPolicy"] == "Failed"
    policy = {"rules": [{"action": "Ignore", "onPodConditions": [{"type": "T"}]}]}
    cron = created(CRON, {"spec.jobTemplate.spec.podFailurePolicy": policy})[0]
    made = cron["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]
    assert made["rules"][0]["onPodConditions"] == [{"type": "T", "status": "True"}]
