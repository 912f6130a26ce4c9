"""Jobs: pods that run to completion, counted exactly.

Each pod of a Job carries the finalizer `batch.kubernetes.io/job-tracking` until the Job's status has taken in how it
ended: its uid is written into `uncountedTerminatedPods` first, then the finalizer goes, then the count rises. Whoever
removes the pod or the controller meanwhile, none is lost and none counts twice. Indexed Jobs need no uids for
what succeeded: an index is in `completedIndexes` or it is not.

Owns: the two controllers of Jobs, all they decide, and what they remember. Does not own: what a Job may say and what
its status may become (`api.kinds.batch`), the shell that runs controllers (`controllers.manager`).

Each module has one idea: `spec` (what a Job asks for), `pods` (what a pod of a Job is), `indexes` (sets of indexes),
`failure_policy` and `success_policy`, `counting` (what the pods amount to), `verdict` (whether it has ended), `scaling`
(which pods to make and to delete), `creation` (the pods themselves), `tracking` (what is counted, whose finalizer may
go), `conditions`, `retries` (when failed pods are replaced), `orphans` (finalizers of pods that no Job counts).
"""
